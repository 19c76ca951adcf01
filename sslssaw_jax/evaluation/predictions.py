"""A trained model at work: a split translated, scored and written down."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sslssaw_jax.config.experiment import Config, ConfigError
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.data.text import counts_characters, has_wide, tokens
from sslssaw_jax.evaluation import leakage, metrics
from sslssaw_jax.stages.step import Stage, eval_step
from sslssaw_jax.stages.translate import Translation, translate_step
from sslssaw_jax.training.sharding import own_frames, replicated, shard_batch
from sslssaw_jax.types import Batch, TrainState
from sslssaw_jax.workdir import FINISHED, predictions_file, write_jsonl


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
    """What the fusion let through of one clip."""

    tokens: list[str]
    weights: np.ndarray  # f32[question tokens + video positions]


Translate = Callable[[nnx.State, nnx.State, Batch], Translation]


def make_translate(stage: Stage, config: Config, tokenizer: Tokenizer, mesh: Mesh) -> Translate:
    """The compiled translation of a batch."""
    return jax.jit(
        partial(
            translate_step,
            graphdef=stage.eval_def,
            config=config,
            language_id=tokenizer.language_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        ),
        out_shardings=replicated(mesh),
    )


def translate_split(
    translate: Translate,
    state: TrainState,
    source: ClipSource,
    tokenizer: Tokenizer,
    config: Config,
    mesh: Mesh,
    *,
    only: Sequence[int] | None = None,
) -> tuple[list[Prediction], list[Gate]]:
    """Each clip of a split, or of `only`, translated once, in the split's order, and the gate of each."""
    predictions: dict[int, Prediction] = {}
    gates: dict[int, Gate] = {}
    own = own_frames(mesh, config.translate.frame_budget)
    for batch in eval_batches(source, tokenizer, config.data, config.translate, own, only):
        found = jax.device_get(translate(state.eval_params, state.batch_stats, shard_batch(batch, mesh)))
        for row in np.flatnonzero(batch.valid):
            index = int(batch.index[row])
            clip = source.clips[index]
            text = tokenizer.decode(found.tokens[row].tolist())
            predictions[index] = Prediction(
                clip.id, clip.question, clip.target, text, float(found.score[row])
            )
            texts = batch.text_tower_texts
            question = texts.question[row][texts.question_mask[row]]
            gates[index] = Gate(
                tokenizer.text_tower.pieces(question.tolist()), found.gate[row][found.mask[row]]
            )
    indices = sorted(predictions)
    return [predictions[index] for index in indices], [gates[index] for index in indices]


def score_predictions(predictions: list[Prediction], config: Config) -> dict[str, Any]:
    """All metrics of a split."""
    return metrics.score(
        [row.prediction for row in predictions],
        [row.target for row in predictions],
        characters=counts_characters(config.data.language),
    )


def evaluate_predictions(
    predictions: list[Prediction], config: Config, question_only: list[str] | None
) -> dict[str, Any]:
    """All metrics of a split, and what they must be read beside: see `leakage.evaluate`.

    Args:
        predictions: of all its clips.
        config: tells the language.
        question_only: the translations of the same clips by a model that reads their questions alone.
    """
    questions = [row.question for row in predictions]
    baselines = leakage.question_baselines(questions, config.data.language)
    if question_only is not None:
        baselines["question_only"] = question_only
    return leakage.evaluate(
        [row.prediction for row in predictions],
        [row.target for row in predictions],
        questions,
        baselines,
        characters=counts_characters(config.data.language),
    )


def score_swapped_questions(
    translate: Translate,
    state: TrainState,
    source: ClipSource,
    tokenizer: Tokenizer,
    config: Config,
    mesh: Mesh,
) -> dict[str, dict[str, Any]]:
    """All metrics of a split where each clip is asked another clip's question, and where none is asked.

    Nothing where `swap_questions` is off, or the model reads only one of question and sign.
    """
    if not config.swap_questions or config.model.inputs != "both":
        return {}
    scores = {}
    for name, questions in leakage.swapped_questions([clip.question for clip in source.clips]).items():
        predictions, _ = translate_split(translate, state, source.asking(questions), tokenizer, config, mesh)
        scores[name] = score_predictions(predictions, config)
    return scores


def write_predictions(workdir: Path, split: str, predictions: list[Prediction]) -> None:
    """`WORKDIR/predictions.<split>.jsonl`."""
    write_jsonl(workdir / predictions_file(split), map(asdict, predictions))


def read_question_only(run: Path, split: str, clips: Sequence[ClipInfo]) -> list[str] | None:
    """The translations of a split that a finished question-only run has left; None where there is none.

    Args:
        run: its workdir.
        split: its name.
        clips: all clips that the split has here.

    Raises:
        ConfigError: the run sees the signs, or has translated other clips, or clips with other texts.
    """
    mark, path = run / FINISHED, run / predictions_file(split)
    if not mark.exists() or not path.exists():
        return None
    inputs = json.loads(mark.read_text(encoding="utf-8"))["config"]["model"]["inputs"]
    if inputs != "question":
        raise ConfigError(f"question_only names {run}, which was trained with model.inputs={inputs!r}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    theirs = [(row["id"], row["question"], row["target"]) for row in rows]
    if theirs != [(clip.id, clip.question, clip.target) for clip in clips]:
        raise ConfigError(
            f"question_only names {run}, whose {path.name} is not of the {len(clips)} clips that {split} has "
            f"here: evaluate that run on the same data, or name another, or none with --config.question_only="
        )
    return [row["prediction"] for row in rows]


def worst_and_best(predictions: Sequence[Prediction]) -> list[int]:
    """The worst, the best, the second worst, the second best, and so on: each place once.

    By the sentence's ROUGE-L; where that is equal, by the model's own score.
    """
    worst_first = sorted(
        range(len(predictions)), key=lambda place: (rouge_l(predictions[place]), predictions[place].score)
    )
    in_turn = [place for pair in zip(worst_first, reversed(worst_first)) for place in pair]
    return in_turn[: len(predictions)]


def rouge_l(row: Prediction) -> float:
    """Of the sentence, from 0 to 100; of its characters where it is Chinese."""
    said, wanted = (tokens(text, has_wide(row.target)) for text in (row.prediction, row.target))
    return 100 * metrics.rouge_l(said, wanted)


def mean_loss(
    stage: Stage, source: ClipSource, tokenizer: Tokenizer, config: Config, mesh: Mesh
) -> Callable[[TrainState], dict[str, float]]:
    """The stage's loss and its parts on a split: means over batches, weighted by their clips."""
    step = jax.jit(
        partial(eval_step, graphdef=stage.eval_def, loss=stage.loss), out_shardings=replicated(mesh)
    )
    own = own_frames(mesh, config.pretrain.frame_budget)
    batches = eval_batches(source, tokenizer, config.data, config.pretrain, own)

    def evaluate(state: TrainState) -> dict[str, float]:
        parts = []
        for batch in batches:
            values = step(state.eval_params, state.batch_stats, shard_batch(batch, mesh))
            parts.append((int(batch.valid.sum()), jax.device_get(values)))
        num_clips = sum(clips for clips, _ in parts)
        return {
            key: sum(clips * float(values[key]) for clips, values in parts) / num_clips for key in parts[0][1]
        }

    return evaluate
