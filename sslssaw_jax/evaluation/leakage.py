"""How much of the targets the questions give away, and the scores that a system must be compared with."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sslssaw_jax.data.text import clean_question, lower_tokens, normal
from sslssaw_jax.evaluation.german_questions import edit_german_question
from sslssaw_jax.evaluation.metrics import overlap, score
from sslssaw_jax.evaluation.significance import confidence_interval, paired_bootstrap

BUCKETS = {"0.00-0.25": 0.25, "0.25-0.50": 0.5, "0.50-0.75": 0.75, "0.75-1.00": float("inf")}
"""Name of each overlap bucket -> the upper bound of its overlaps."""


def evaluate(
    predictions: Sequence[str],
    targets: Sequence[str],
    questions: Sequence[str],
    baselines: Mapping[str, Sequence[str]],
    *,
    characters: bool = False,
) -> dict[str, Any]:
    """Score translations together with what their questions give away.

    Args:
        predictions: One translation a clip.
        targets: One reference a clip.
        questions: One question a clip, as it was asked.
        baselines: Name -> the translations that the predictions are compared with.
        characters: Whether to count characters instead of words, see `metrics.score`.

    Returns:
        `metrics.score` of the predictions, and
        `intervals`: The 95 % intervals of `bleu4` and `rouge_l`.
        `baselines`: Scores and intervals of each baseline, with the `p_value` of the difference from it.
        `overlap_buckets`: `bleu4`, `rouge_l` and `num_clips` by `metrics.overlap` of question and target.
        `without_copies`: The same for the clips whose question is not the target itself.
        `overlap_free`: The same for the clips with `is_overlap_free`, with intervals.
        The scores for a part without clips are None.

    Raises:
        ValueError: There are no clips, or not one prediction, question and baseline's translation for each.
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
    """Return the clips in each part that `evaluate` scores: `BUCKETS`, `without_copies`, `overlap_free`."""
    pairs = list(zip(questions, targets, strict=True))
    overlaps = [overlap(question, target, characters=characters) for question, target in pairs]
    places = np.digitize(overlaps, list(BUCKETS.values()))
    parts = {name: np.flatnonzero(places == place).tolist() for place, name in enumerate(BUCKETS)}
    parts["without_copies"] = [
        i
        for i, (question, target) in enumerate(pairs)
        if lower_tokens(question, characters) != lower_tokens(target, characters)
    ]
    parts["overlap_free"] = [
        i
        for i, (question, target) in enumerate(pairs)
        if is_overlap_free(question, target, characters=characters)
    ]
    return parts


def is_overlap_free(question: str, target: str, *, characters: bool = False) -> bool:
    """Return whether the question shares no two successive tokens with the target.

    A target of one token must not occur in the question at all. Such questions score no BLEU-2 when copied. A
    stricter rule would leave too few clips: only 3 of the 642 questions in PHOENIX-2014T's test split hold no
    token of their target, and frequent tokens cannot be ignored, since `morgen`, `nacht` and `regen` are
    among them.
    """
    asked, wanted = (lower_tokens(text, characters) for text in (question, target))
    if len(wanted) < 2:
        return not set(asked) & set(wanted)
    return not set(pairwise(asked)) & set(pairwise(wanted))


def copied_questions(questions: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Return the questions as translations, cased as targets are."""
    return list(map(normal if _have_capitals(targets) else clean_question, questions))


def question_baselines(
    questions: Sequence[str], targets: Sequence[str], language: str
) -> dict[str, list[str]]:
    """Translate the questions by rules; German ones are edited as well.

    The rules write lower case, so they are left out if a target has capitals. Clips without any question have
    no such translation.
    """
    if not any(questions):
        return {}
    made = {"copy_question": copied_questions(questions, targets)}
    if language == "de_DE" and not _have_capitals(targets):
        made["edited_question"] = [edit_german_question(clean_question(question)) for question in questions]
    return made


def _have_capitals(targets: Sequence[str]) -> bool:
    return any(target != target.lower() for target in targets)


def swapped_questions(questions: Sequence[str]) -> dict[str, list[str]]:
    """Return other questions to ask: `shuffled` among the clips, and `blanked`.

    The shuffle gives each clip the question of another clip, the same one on every call. A single clip has no
    shuffled question; clips without any question have neither.
    """
    if not any(questions):
        return {}
    swapped = {"blanked": [""] * len(questions)}
    if len(questions) > 1:
        ring = np.random.default_rng(0).permutation(len(questions))
        giver = dict(zip(ring.tolist(), np.roll(ring, 1).tolist()))
        swapped = {"shuffled": [questions[giver[i]] for i in range(len(questions))], **swapped}
    return swapped
