"""What the questions give away of the targets, and with it what every score must be read beside."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sslssaw_jax.data.text import clean_question, tokens
from sslssaw_jax.evaluation.german_questions import edit_german_question
from sslssaw_jax.evaluation.metrics import overlap, score
from sslssaw_jax.evaluation.significance import confidence_interval, paired_bootstrap

BUCKETS = {"0.00-0.25": 0.25, "0.25-0.50": 0.5, "0.50-0.75": 0.75, "0.75-1.00": float("inf")}
"""Name of each overlap bucket -> the overlap below which a clip falls into it."""


def evaluate(
    predictions: Sequence[str],
    targets: Sequence[str],
    questions: Sequence[str],
    baselines: Mapping[str, Sequence[str]],
    *,
    characters: bool = False,
) -> dict[str, Any]:
    """`metrics.score`, and beside it what the questions give away.

    `intervals` has the 95 % intervals of `bleu4` and `rouge_l`. `baselines` scores each baseline's
    translations, with `intervals` too, and with the `p_value` of the predictions' difference from it.
    `overlap_buckets` scores the predictions (`bleu4`, `rouge_l`, `num_clips`) by how much of the target the
    question holds: the share of the target's distinct tokens that occur in the lower-cased question.
    `without_copies` scores those of them whose question is not the target itself, and `overlap_free`, with
    `intervals`, those with `is_overlap_free`. A part without clips has null scores.

    Args:
        predictions: one translation a clip.
        targets: one reference a clip.
        questions: as they were asked, one a clip.
        baselines: the translations of others by their names, such as `question_baselines`.
        characters: count characters instead of words, as `metrics.score` does.

    Raises:
        ValueError: there is no clip, or not one prediction, question and baseline's translation for each.
    """
    if len(questions) != len(targets):
        raise ValueError(f"{len(questions)} questions for {len(targets)} targets; one is needed for each")
    scores = score(predictions, targets, characters=characters)
    own, *compared = paired_bootstrap(predictions, [*baselines.values()], targets, characters=characters)
    scores["intervals"] = {key: [each.low, each.high] for key, each in own.items()}
    scores["baselines"] = {
        name: {
            **score(texts, targets, characters=characters),
            "intervals": {key: [each.low, each.high] for key, each in found.items()},
            "p_value": {key: each.p_value for key, each in found.items()},
        }
        for (name, texts), found in zip(baselines.items(), compared)
    }

    def part(indices: Sequence[int], *, intervals: bool = False) -> dict[str, Any]:
        if not indices:
            return {"bleu4": None, "rouge_l": None, "num_clips": 0}
        chosen = [predictions[i] for i in indices], [targets[i] for i in indices]
        found = score(*chosen, characters=characters)
        if intervals:
            found["intervals"] = confidence_interval(*chosen, characters=characters)
        return {key: found[key] for key in ("bleu4", "rouge_l", "num_clips", "intervals") if key in found}

    clips = overlap_parts(targets, questions, characters=characters)
    scores["overlap_buckets"] = {name: part(clips[name]) for name in BUCKETS}
    scores["without_copies"] = part(clips["without_copies"])
    scores["overlap_free"] = part(clips["overlap_free"], intervals=True)
    return scores


def overlap_parts(
    targets: Sequence[str], questions: Sequence[str], *, characters: bool = False
) -> dict[str, list[int]]:
    """The clips in each of `BUCKETS`, in `without_copies` and in `overlap_free`, as `evaluate` says."""
    pairs = list(zip(questions, targets, strict=True))
    overlaps = [overlap(question, target, characters=characters) for question, target in pairs]
    places = np.digitize(overlaps, list(BUCKETS.values()))
    parts = {name: np.flatnonzero(places == place).tolist() for place, name in enumerate(BUCKETS)}
    parts["without_copies"] = [
        i
        for i, (question, target) in enumerate(pairs)
        if tokens(question.lower(), characters) != tokens(target.lower(), characters)
    ]
    parts["overlap_free"] = [
        i
        for i, (question, target) in enumerate(pairs)
        if is_overlap_free(question, target, characters=characters)
    ]
    return parts


def is_overlap_free(question: str, target: str, *, characters: bool = False) -> bool:
    """Whether the question holds no two tokens of the target in a row (none of a target of one), case aside.

    Copied, such questions score no BLEU-2. Without any token of their target are 3 of the 642 questions of
    PHOENIX-2014T's test split, and a list of words to overlook cannot be had from counts: its most frequent
    ones are `und`, `es`, `im`, but also `morgen`, `nacht`, `regen`.
    """
    asked, wanted = (tokens(text.lower(), characters) for text in (question, target))
    if len(wanted) < 2:
        return not set(asked) & set(wanted)
    return not set(pairwise(asked)) & set(pairwise(wanted))


def question_baselines(questions: Sequence[str], language: str) -> dict[str, list[str]]:
    """Translations made of the questions alone, without learning; of German ones the edited, too."""
    made = {"copy_question": [question.lower() for question in questions]}
    if language == "de_DE":
        made["edited_question"] = [edit_german_question(clean_question(question)) for question in questions]
    return made


def swapped_questions(questions: Sequence[str]) -> dict[str, list[str]]:
    """What else to ask: `shuffled`, each clip another clip's question, and `blanked`, nothing.

    The shuffle is the same on every call, one ring through all clips. A single clip has none; and where no
    question is asked there is nothing to swap.
    """
    if not any(questions):
        return {}
    swapped = {"blanked": [""] * len(questions)}
    if len(questions) > 1:
        ring = np.random.default_rng(0).permutation(len(questions))
        giver = dict(zip(ring.tolist(), np.roll(ring, 1).tolist()))
        swapped = {"shuffled": [questions[giver[i]] for i in range(len(questions))], **swapped}
    return swapped
