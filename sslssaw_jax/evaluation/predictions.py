"""A trained model's translations of a split, and their scores."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.data.text import counts_characters, tokens
from sslssaw_jax.evaluation import leakage, metrics
from sslssaw_jax.models.beam_search import IMPOSSIBLE
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.step import eval_step
from sslssaw_jax.stages.translation import translate_step
from sslssaw_jax.training.sharding import local_frames, replicated, shard_batch
from sslssaw_jax.types import TrainState
from sslssaw_jax.workdir import FINISHED, predictions_file, read_json, read_jsonl, write_jsonl


@dataclass(frozen=True)
class Prediction:
    """One line of `predictions.<split>.jsonl`."""

    id: str
    question: str
    target: str
    prediction: str
    score: float  # log-probability over length ** length_penalty


@dataclass(frozen=True)
class Gate:
    """The fusion's gate of one clip."""

    tokens: list[str]  # of the question
    weights: np.ndarray  # f32[question tokens + video positions]


@dataclass(frozen=True)
class Sentence:
    """A sentence that the beam search found."""

    text: str
    score: float  # log-probability over length ** length_penalty


class Found(NamedTuple):
    """All that a model says of one clip."""

    sentences: list[Sentence]  # best first
    gate: Gate | None


class SplitTranslator:
    """A translator of whole splits, compiled once.

    Args:
        stage: A stage that translates.
        config: Of the run.
        tokenizer: Of the dataset.
        mesh: The devices.
    """

    def __init__(self, stage: Stage, config: Config, tokenizer: Tokenizer, mesh: Mesh) -> None:
        assert stage.translation is not None
        self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
        self._stage_config = getattr(config, stage.name)
        step = partial(
            translate_step,
            graphdef=stage.eval_def,
            translation=stage.translation,
            decode=config.decode,
            language_id=tokenizer.language_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        )
        self._translate = jax.jit(step, out_shardings=replicated(mesh))

    def __call__(
        self, state: TrainState, clips: ClipSource, only: Sequence[int] | None = None
    ) -> tuple[list[Prediction], list[Gate | None]]:
        """Return predictions and gates of a split, or of `only`, in order."""
        found = self.search(state, clips, only)
        asked = [clips.clips[index] for index in found]
        best = [sentences[0] for sentences, _ in found.values()]
        predictions = [
            Prediction(clip.id, clip.question, clip.target, sentence.text, sentence.score)
            for clip, sentence in zip(asked, best)
        ]
        return predictions, [gate for _, gate in found.values()]

    def search(
        self, state: TrainState, clips: ClipSource, only: Sequence[int] | None = None
    ) -> dict[int, Found]:
        """Return all sentences found for each clip, by its index in order."""
        tokenizer, mesh = self._tokenizer, self._mesh
        frames = local_frames(mesh, self._stage_config.frame_budget)
        batches = eval_batches(clips, tokenizer, self._config.data, self._stage_config, frames, only)
        found: dict[int, Found] = {}
        for batch in batches:
            on_devices = shard_batch(batch, mesh)
            result = jax.device_get(self._translate(state.eval_params, state.batch_stats, on_devices))
            asked = batch.text_tower_texts
            for row in np.flatnonzero(batch.valid):
                sentences = [
                    Sentence(tokenizer.decode(tokens.tolist()), float(score))
                    for tokens, score in zip(result.tokens[row], result.score[row])
                    if score > IMPOSSIBLE
                ]
                gate = None
                if result.gate is not None:
                    ids = asked.question[row][asked.question_mask[row]].tolist()
                    gate = Gate(tokenizer.text_tower.pieces(ids), result.gate[row][result.mask[row]])
                found[int(batch.index[row])] = Found(sentences, gate)
        return dict(sorted(found.items()))


class SplitLoss:
    """The mean of a stage's loss over a split, compiled once; arguments as for `SplitTranslator`."""

    def __init__(self, stage: Stage, config: Config, tokenizer: Tokenizer, mesh: Mesh) -> None:
        self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
        self._stage_config = getattr(config, stage.name)
        step = partial(eval_step, graphdef=stage.eval_def, loss=stage.loss)
        self._step = jax.jit(step, out_shardings=replicated(mesh))

    def __call__(self, state: TrainState, clips: ClipSource) -> dict[str, float]:
        """Return the loss and its parts as means over all clips."""
        frames = local_frames(self._mesh, self._stage_config.frame_budget)
        parts = []
        for batch in eval_batches(clips, self._tokenizer, self._config.data, self._stage_config, frames):
            values = self._step(state.eval_params, state.batch_stats, shard_batch(batch, self._mesh))
            parts.append((int(batch.valid.sum()), jax.device_get(values)))
        total = sum(count for count, _ in parts)
        return {
            key: sum(count * float(values[key]) for count, values in parts) / total for key in parts[0][1]
        }


def score_predictions(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return all metrics of a split."""
    targets = [row.target for row in predictions]
    return metrics.score(
        [row.prediction for row in predictions], targets, characters=counts_characters(targets)
    )


def evaluate_predictions(
    predictions: Sequence[Prediction], language: str, question_only: Sequence[str] | None
) -> dict[str, Any]:
    """Return all metrics of a split with its baselines; see `leakage.evaluate`.

    Args:
        predictions: Of all clips of the split.
        language: Of the targets.
        question_only: The translations of the same clips by a model without video, if any.
    """
    questions, targets = ([getattr(row, of) for row in predictions] for of in ("question", "target"))
    baselines = leakage.question_baselines(questions, language)
    if question_only is not None:
        baselines["question_only"] = list(question_only)
    return leakage.evaluate(
        [row.prediction for row in predictions],
        targets,
        questions,
        baselines,
        characters=counts_characters(targets),
    )


def score_swapped_questions(
    translate: SplitTranslator, state: TrainState, clips: ClipSource
) -> dict[str, dict[str, Any]]:
    """Score a split with the questions of other clips, and with none."""
    scores = {}
    for name, questions in leakage.swapped_questions([clip.question for clip in clips.clips]).items():
        predictions, _ = translate(state, clips.asking(questions))
        scores[name] = score_predictions(predictions)
    return scores


def write_predictions(workdir: Path, split: str, predictions: Sequence[Prediction]) -> None:
    """Write `WORKDIR/predictions.<split>.jsonl`."""
    write_jsonl(workdir / predictions_file(split), map(dataclasses.asdict, predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """Read a file of predictions."""
    return [Prediction(**row) for row in read_jsonl(path)]


def read_question_only(run: Path, split: str, clips: Sequence[ClipInfo]) -> list[str] | None:
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
    if read_json(mark)["reads_video"]:
        raise ConfigError(f"config.evaluation.question_only_run names {run}, which was trained with video")
    predictions = read_predictions(path)
    theirs = [(row.id, row.question, row.target) for row in predictions]
    if theirs != [(clip.id, clip.question, clip.target) for clip in clips]:
        raise ConfigError(
            f"config.evaluation.question_only_run names {run}, whose {path.name} is not of the {len(clips)} "
            f"clips that {split} has here: evaluate that run on the same data, name another run, or none by "
            "--config.evaluation.question_only_run="
        )
    return [row.prediction for row in predictions]


def worst_and_best(predictions: Sequence[Prediction]) -> list[int]:
    """Return the places of the worst, best, second worst, and so on.

    Sentences are compared by ROUGE-L, and if equal by the model's own score.
    """
    characters = counts_characters(row.target for row in predictions)
    ranks = [(rouge_l(row, characters), row.score) for row in predictions]
    worst_first = sorted(range(len(predictions)), key=ranks.__getitem__)
    in_turn = [place for pair in zip(worst_first, reversed(worst_first)) for place in pair]
    return in_turn[: len(predictions)]


def rouge_l(row: Prediction, characters: bool) -> float:
    """Return a sentence's ROUGE-L in percent; see `metrics.score`."""
    return 100 * metrics.rouge_l(tokens(row.prediction, characters), tokens(row.target, characters))
