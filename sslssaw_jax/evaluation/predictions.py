"""Translations of a split with their scores, and the files they are kept in; nothing here needs JAX."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.text import counts_characters, tokens
from sslssaw_jax.evaluation import leakage, metrics
from sslssaw_jax.workdir import (
    FINISHED,
    DamagedFileError,
    predictions_file,
    read_json,
    read_jsonl,
    write_jsonl,
)

if TYPE_CHECKING:
    from sslssaw_jax.data.clips import ClipInfo


@dataclass(frozen=True)
class Prediction:
    """One line of `predictions.<split>.jsonl`."""

    id: str
    question: str
    target: str
    prediction: str
    score: float  # log-probability over the norm of the length


@dataclass(frozen=True)
class Gate:
    """The fusion's gate of one clip."""

    tokens: list[str]  # of the question
    weights: np.ndarray  # f32[question tokens + video positions]


@dataclass(frozen=True)
class Sentence:
    """A sentence that the beam search found."""

    text: str
    score: float  # log-probability over the norm of the length


class Found(NamedTuple):
    """Everything that a model says about one clip."""

    sentences: list[Sentence]  # best first; no two have the same text
    gate: Gate | None
    ranks: list[float]  # by which the sentences are ordered: their scores, or what the model ranks them by


def score_predictions(predictions: Sequence[Prediction], *, period: bool = False) -> dict[str, Any]:
    """Return all metrics of a split; see `metrics.score`."""
    targets = [row.target for row in predictions]
    characters = counts_characters(targets)
    return metrics.score(
        [row.prediction for row in predictions], targets, characters=characters, period=period
    )


def evaluate_predictions(
    predictions: Sequence[Prediction], dataset: str, language: str, question_only: Sequence[str] | None
) -> dict[str, Any]:
    """Return all metrics of a split with its baselines; see `leakage.evaluate`.

    Args:
        predictions: For all clips of the split.
        dataset: Its name; those in `metrics.FINAL_PERIOD` are also scored `with_final_period`.
        language: Of the targets.
        question_only: The translations of the same clips by a model without video, if any.
    """
    questions, targets = ([getattr(row, of) for row in predictions] for of in ("question", "target"))
    baselines = leakage.question_baselines(questions, targets, language)
    if question_only is not None:
        baselines["question_only"] = list(question_only)
    scores = leakage.evaluate(
        [row.prediction for row in predictions],
        targets,
        questions,
        baselines,
        characters=counts_characters(targets),
    )
    if dataset in metrics.FINAL_PERIOD:
        scores["with_final_period"] = score_predictions(predictions, period=True)
    return scores


def write_predictions(workdir: Path, split: str, predictions: Sequence[Prediction]) -> None:
    """Write `WORKDIR/predictions.<split>.jsonl`."""
    write_jsonl(workdir / predictions_file(split), map(dataclasses.asdict, predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """Read a file of predictions.

    Raises:
        DamagedFileError: A line is not a prediction.
    """
    again = "run with --mode=eval to write it again"
    try:
        rows = read_jsonl(path)
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}; {again}") from None
    fields: dict[str, Any] = {field.name: str for field in dataclasses.fields(Prediction)}
    fields["score"] = (int, float)
    for number, row in enumerate(rows, 1):
        if not all(isinstance(row.get(name), kind) for name, kind in fields.items()):
            raise DamagedFileError(
                f"{path}, line {number} is damaged: a prediction has {', '.join(fields)}; {again}"
            )
    return [Prediction(*(row[name] for name in fields)) for row in rows]


def read_question_only(run: Path, split: str, clips: Sequence["ClipInfo"]) -> list[str] | None:
    """Return a question-only run's translations of a split, if finished.

    Args:
        run: The run's workdir.
        split: The split's name.
        clips: All clips that the split has here.

    Raises:
        ConfigError: The run reads video, or has translated other clips, or clips with other texts.
    """
    mark, path = run / FINISHED, run / predictions_file(split)
    if not mark.exists() or not path.exists():
        return None
    remedy = "name another run, or none by --config.evaluation.question_only_run="
    if read_json(mark)["reads_video"]:
        raise ConfigError(
            f"config.evaluation.question_only_run names {run}, which was trained with video: {remedy}"
        )
    predictions = read_predictions(path)
    theirs = [(row.id, row.question, row.target) for row in predictions]
    if theirs != [(clip.id, clip.question, clip.target) for clip in clips]:
        raise ConfigError(
            f"config.evaluation.question_only_run names {run}, whose {path.name} is not for the {len(clips)} "
            f"clips that {split} has here: evaluate that run on the same data, {remedy}"
        )
    return [row.prediction for row in predictions]


def is_ranked(predictions: Sequence[Prediction]) -> bool:
    """Return whether some clips are worse than others."""
    return len(predictions) > 1 and any(row.target for row in predictions)


def worst_and_best(predictions: Sequence[Prediction]) -> list[int]:
    """Return the places of the worst, best, second worst, and so on.

    Sentences are compared by ROUGE-L, and ties by the model's own score; without references they stay in
    their order.
    """
    if not is_ranked(predictions):
        return list(range(len(predictions)))
    characters = counts_characters(row.target for row in predictions)
    ranks = [(rouge_l(row, characters), row.score) for row in predictions]
    worst_first = sorted(range(len(predictions)), key=ranks.__getitem__)
    in_turn = [place for pair in zip(worst_first, reversed(worst_first)) for place in pair]
    return in_turn[: len(predictions)]


def rouge_l(row: Prediction, characters: bool) -> float:
    """Return a sentence's ROUGE-L in percent; see `metrics.score`."""
    return 100 * metrics.rouge_l(tokens(row.prediction, characters), tokens(row.target, characters))
