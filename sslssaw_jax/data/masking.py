"""Masked words for stage 1 (Eq. 2)."""

import re

import numpy as np

from sslssaw_jax.data.text import HAN

_WORD = re.compile(rf"[{HAN}]|[^\s{HAN}]+")


def mask_words(text: str, rate: float, mask_token: str, rng: np.random.Generator) -> str:
    """Replaces whole words of `text` by one `mask_token` each.

    Words stand between spaces; a Chinese character is a word of its own, as it is in the metrics. Each word
    is masked with probability `rate`; where chance spares them all, one is masked nevertheless, since a
    sentence without a mask has nothing to restore. A rate of 0 leaves the text as it is.
    """
    num_words = len(_WORD.findall(text))
    if not num_words or rate == 0:
        return text
    masked = rng.random(num_words) < rate
    if not masked.any():
        masked[rng.integers(num_words)] = True
    hidden = iter(masked)
    return _WORD.sub(lambda word: mask_token if next(hidden) else word[0], text)
