"""Scores of translations as the field reports them, and what they must be read beside.

All scores run from 0 to 100. References are the original strings, never decoded from tokens.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

ROUGE_BETA = 1.2  # of the COCO caption evaluation, which sign language translation took over
BUCKETS = {"0.00-0.25": 0.25, "0.25-0.50": 0.5, "0.50-0.75": 0.75, "0.75-1.00": float("inf")}
"""Name of each overlap bucket -> the overlap below which a clip falls into it."""

_COLUMNS = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "sacrebleu": "sacreBLEU",
    "num_clips": "clips",
}


def score(predictions: Sequence[str], targets: Sequence[str], *, characters: bool = False) -> dict[str, Any]:
    """Corpus scores of `predictions` against `targets`.

    `bleu1` to `bleu4` are raw corpus BLEU over whitespace tokens without smoothing, `rouge_l` the mean
    F of the longest common subsequence; `chrf` and `sacrebleu` are sacrebleu's with its defaults.

    Args:
        predictions: one translation a clip; may be empty strings.
        targets: one reference a clip.
        characters: count characters instead of words, as is done for Chinese (and sacrebleu's `zh` tokens),
            whatever spaces stand between them and whether they are of full or half width: a tokenizer writes
            a comma as `,` that the reference writes as `，`.

    Raises:
        ValueError: there is no clip, or not one prediction for each.
    """
    if len(predictions) != len(targets) or not targets:
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets; one is needed for each")
    hypotheses = [tokens(text, characters) for text in predictions]
    references = [tokens(text, characters) for text in targets]
    if characters:
        predictions, targets = (["".join(text) for text in texts] for texts in (hypotheses, references))
    joined = [" ".join(words) for words in hypotheses], [[" ".join(words) for words in references]]
    scores: dict[str, Any] = {f"bleu{n}": raw_bleu(n).corpus_score(*joined).score for n in (1, 2, 3, 4)}
    scores["rouge_l"] = _mean_rouge_l(hypotheses, references)
    scores["chrf"] = CHRF().corpus_score(predictions, [targets]).score
    # `force` only silences a warning about references that end in " ."
    sacrebleu = BLEU(tokenize="zh" if characters else "13a", force=True)
    scores["sacrebleu"] = sacrebleu.corpus_score(predictions, [targets]).score
    scores["sacrebleu_signature"] = str(sacrebleu.get_signature())
    scores["num_clips"] = len(targets)
    return scores


def evaluate(
    predictions: Sequence[str], targets: Sequence[str], questions: Sequence[str], *, characters: bool = False
) -> dict[str, Any]:
    """`score`, and beside it what the questions give away.

    `baselines.copy_question` scores the lower-cased questions as if they were the translations.
    `overlap_buckets` scores the predictions (`bleu4`, `rouge_l`, `num_clips`) by how much of the target the
    question holds: the share of the target's distinct tokens that occur in the lower-cased question.
    `without_copies` scores those of them whose question is not the target itself. A bucket without clips has
    null scores.

    Raises:
        ValueError: there is no clip, or not one prediction and one question for each.
    """
    if len(questions) != len(targets):
        raise ValueError(f"{len(questions)} questions for {len(targets)} targets; one is needed for each")
    scores = score(predictions, targets, characters=characters)
    copied = [question.lower() for question in questions]
    scores["baselines"] = {"copy_question": score(copied, targets, characters=characters)}
    overlaps = [
        overlap(question, target, characters=characters) for question, target in zip(questions, targets)
    ]
    scores["overlap_buckets"] = {}
    lower = float("-inf")
    for name, upper in BUCKETS.items():
        inside = [i for i, value in enumerate(overlaps) if lower <= value < upper]
        scores["overlap_buckets"][name] = _bucket(
            [predictions[i] for i in inside], [targets[i] for i in inside], characters
        )
        lower = upper
    others = [
        i
        for i, question in enumerate(questions)
        if tokens(question.lower(), characters) != tokens(targets[i].lower(), characters)
    ]
    scores["without_copies"] = _bucket(
        [predictions[i] for i in others], [targets[i] for i in others], characters
    )
    return scores


def overlap(question: str, target: str, *, characters: bool = False) -> float:
    """Share of the target's distinct tokens that the question holds, case aside; 0 for an empty target."""
    asked, wanted = (set(tokens(text.lower(), characters)) for text in (question, target))
    return len(asked & wanted) / max(len(wanted), 1)


def format_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A plain-text table of `{split: evaluate(...)}`: the system, its overlap buckets, and copy-question."""
    rows = [["split", "system", *_COLUMNS.values()]]
    for split, scores in metrics.items():
        rows.append([split, "this run", *_cells(scores)])
        for name, bucket in scores["overlap_buckets"].items():
            rows.append(["", f"  overlap {name}", *_cells(bucket)])
        rows.append(["", "  without copies", *_cells(scores["without_copies"])])
        rows.append(["", "copy-question", *_cells(scores["baselines"]["copy_question"])])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    lines.append("overlap: share of the target's distinct tokens that the question holds")
    lines.append("without copies: the clips whose question is not the target itself")
    return "\n".join(lines)


def _cells(scores: Mapping[str, Any]) -> list[str]:
    values = [scores.get(key) for key in _COLUMNS]
    return ["" if x is None else str(x) if isinstance(x, int) else f"{x:.2f}" for x in values]


def _bucket(predictions: list[str], targets: list[str], characters: bool) -> dict[str, Any]:
    if not targets:
        return {"bleu4": None, "rouge_l": None, "num_clips": 0}
    scores = score(predictions, targets, characters=characters)
    return {key: scores[key] for key in ("bleu4", "rouge_l", "num_clips")}


def tokens(text: str, characters: bool) -> list[str]:
    """What the scores count: words between whitespace, or characters with their width folded."""
    return list("".join(unicodedata.normalize("NFKC", text).split())) if characters else text.split()


def raw_bleu(max_order: int) -> BLEU:
    """Corpus BLEU without smoothing of texts that are `tokens` with one space between them."""
    return BLEU(max_ngram_order=max_order, tokenize="none", smooth_method="none", force=True)


def _mean_rouge_l(hypotheses: list[list[str]], references: list[list[str]]) -> float:
    return 100 * sum(map(rouge_l, hypotheses, references)) / len(references)


def rouge_l(hypothesis: list[str], reference: list[str]) -> float:
    """F of the longest common subsequence (Lin, 2004, Eq. 2-4), from 0 to 1."""
    common = _longest_common_subsequence(hypothesis, reference)
    if common == 0:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _longest_common_subsequence(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        above_left = 0
        for j, y in enumerate(b, start=1):
            above = row[j]
            row[j] = above_left + 1 if x == y else max(above, row[j - 1])
            above_left = above
    return row[-1]
