"""What a sentence depends on, as `occlusion.py` finds it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WordDrop:
    """A word of the question, and what the sentence loses without the word."""

    word: str
    drop: float  # of the sentence's log-probability, in nats


@dataclass(frozen=True)
class StretchDrop:
    """A stretch of the video, and what the sentence loses without the stretch."""

    start: float  # seconds
    stop: float
    drop: float  # of the sentence's log-probability, in nats


@dataclass(frozen=True)
class Explanation:
    """An explanation of a sentence by the parts of the input that it depends on."""

    sentence: str
    log_prob: float
    words: list[WordDrop]  # empty for a model that reads no question
    stretches: list[StretchDrop]  # empty for a model that reads no video

    @property
    def first_word(self) -> str:
        """Return the word without which the sentence loses most, if any."""
        return max(self.words, key=lambda word: word.drop, default=WordDrop("", 0.0)).word
