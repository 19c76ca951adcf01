"""Denoising pairs: a target with a corrupted copy of the target as its question.

The questions of PHOENIX-2014T-QA are mostly their targets reworded: the verb in front, a part left out.
Restoring a target from such a copy teaches a model that starts from scratch what to keep of a question.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sslssaw_jax.data.batches import Ask
from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.data.text import clean_question

MIN_OPENINGS = 3  # rarer openings are chance
MIN_OPENING_RATE = 0.1  # of a word's occurrences in targets; verbs are far above, articles far below
FRONTED = 0.6  # share of questions with a word in front; most of the others are shuffled
DROPPED_SPAN = 0.5
DROPPED_TAIL = 0.7  # share of the dropped spans that end the sentence
SHUFFLED = 0.3
DROPPED_WORD = 0.2
SHUFFLE_DISTANCE = 3.0  # words


class TargetNoise:
    """A maker of questions from targets, in the way of a train split's questions.

    Args:
        targets: The targets of the train split; spaces separate their words.
        questions: The questions of the train split; spaces separate their words.
    """

    def __init__(self, targets: Sequence[str], questions: Sequence[str]) -> None:
        in_targets = Counter(word for target in targets for word in target.split())
        opening = Counter(question.split()[0] for question in questions if question.strip())
        frequent = {word: count for word, count in opening.items() if count >= MIN_OPENINGS}
        self.openings = {
            word for word, count in frequent.items() if count >= MIN_OPENING_RATE * in_targets[word]
        }
        # A word that opens questions and occurs in no target cannot be moved: it is added in front.
        self._foreign = sorted(self.openings, key=lambda word: (-frequent[word], word))[:4]

    def __call__(self, target: str, rng: np.random.Generator) -> str:
        """Return a corrupted copy of `target`, empty only if `target` is empty."""
        words = target.split()
        kind = rng.random()
        if kind < FRONTED:
            words = self._front(words, rng)
            if len(words) > 4 and rng.random() < DROPPED_SPAN:
                words = _drop_span(words, rng)
        elif kind < FRONTED + SHUFFLED:
            kept = [word for word in words if rng.random() >= DROPPED_WORD] or words
            order = np.argsort(np.arange(len(kept)) + rng.random(len(kept)) * SHUFFLE_DISTANCE)
            words = [kept[i] for i in order]
        return " ".join(words)

    def _front(self, words: list[str], rng: np.random.Generator) -> list[str]:
        places = [i for i, word in enumerate(words) if word in self.openings]
        if places:
            place = places[rng.integers(min(2, len(places)))]
            return [words[place], *words[:place], *words[place + 1 :]]
        if self._foreign and rng.random() < DROPPED_TAIL:
            return [self._foreign[rng.integers(len(self._foreign))], *words]
        return words


def ask_noisy_targets(clips: Sequence[ClipInfo], share: float) -> Ask | None:
    """Return what asks a `share` of the clips a noisy copy of their target; None for a share of 0."""
    if not share:
        return None
    noise = TargetNoise([clip.target for clip in clips], [clean_question(clip.question) for clip in clips])

    def ask(clip: ClipInfo, rng: np.random.Generator) -> str:
        return clip.question if rng.random() >= share else noise(clip.target, rng)

    return ask


def _drop_span(words: list[str], rng: np.random.Generator) -> list[str]:
    length = int(rng.integers(1, len(words) // 2 + 1))
    start = len(words) - length
    if rng.random() >= DROPPED_TAIL:
        start = int(rng.integers(1, start + 1))
    return words[:start] + words[start + length :]
