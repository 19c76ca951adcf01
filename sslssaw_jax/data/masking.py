"""Masked words for stage 1 (Eq. 2)."""

import numpy as np


def mask_words(text: str, rate: float, mask_token: str, rng: np.random.Generator) -> str:
    """Replaces whole words of `text` by one `mask_token` each.

    Each word is masked with probability `rate`; where chance spares them all, one is masked nevertheless,
    since a sentence without a mask has nothing to restore. A rate of 0 leaves the text as it is.
    """
    words = text.split()
    if not words or rate == 0:
        return text
    masked = rng.random(len(words)) < rate
    if not masked.any():
        masked[rng.integers(len(words))] = True
    return " ".join(mask_token if hidden else word for word, hidden in zip(words, masked))
