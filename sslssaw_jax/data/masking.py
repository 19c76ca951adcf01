"""Masked words for stage 1 (Eq. 2), and words left out of questions."""

import re

import numpy as np

from sslssaw_jax.data.text import SPACELESS

_WORD = re.compile(rf"[{SPACELESS}]|[^\s{SPACELESS}]+")


def mask_words(text: str, rate: float, mask_token: str, rng: np.random.Generator) -> str:
    """Replace some words of `text` by one `mask_token` each.

    Words are separated by spaces; a character of a script without spaces is a word, as in the metrics.

    Args:
        text: A sentence.
        rate: The probability for each word. If chance spares all words, one is masked all the same, since a
            sentence without a mask has nothing to restore; 0 masks none.
        mask_token: The tokenizer's mask.
        rng: Draws the words.
    """
    num_words = len(_WORD.findall(text))
    if not num_words or rate == 0:
        return text
    masked = rng.random(num_words) < rate
    if not masked.any():
        masked[rng.integers(num_words)] = True
    hidden = iter(masked)
    return _WORD.sub(lambda word: mask_token if next(hidden) else word[0], text)


def drop_words(text: str, rate: float, rng: np.random.Generator) -> str:
    """Leave out each word with a probability, in half of the texts."""
    if rng.random() < 0.5:
        return text
    return _WORD.sub(lambda word: "" if rng.random() < rate else word.group(), text)
