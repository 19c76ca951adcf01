"""A trained model at work: a split translated, scored, written down and drawn."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sslssaw_jax import metrics
from sslssaw_jax.config import Config
from sslssaw_jax.data.pipeline import eval_batches
from sslssaw_jax.data.source import ClipSource
from sslssaw_jax.data.tokenizer import Tokenizer
from sslssaw_jax.heatmap import save_heatmap
from sslssaw_jax.logs import write_jsonl
from sslssaw_jax.sharding import replicated, shard_batch
from sslssaw_jax.stages.step import Stage, eval_step
from sslssaw_jax.stages.translate import Translation, translate_step
from sslssaw_jax.types import Batch, TrainState

FRAMES_SHOWN = 8  # under a heat map


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
    """What a heat map shows of one clip."""

    tokens: list[str]
    weights: np.ndarray  # f32[question tokens + video positions]
    frames: np.ndarray  # u8[k, H, W, 3]


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
    gates_of: frozenset[int] = frozenset(),
) -> tuple[list[Prediction], dict[int, Gate]]:
    """Each clip of a split translated once, in the split's order, and the gates of the clips asked for."""
    predictions: dict[int, Prediction] = {}
    gates: dict[int, Gate] = {}
    for batch in eval_batches(
        source, tokenizer, config.data, config.translate, video=config.model.inputs != "question"
    ):
        found = jax.device_get(translate(state.params, state.batch_stats, shard_batch(batch, mesh)))
        for row in np.flatnonzero(batch.valid):
            index = int(batch.index[row])
            clip = source.clips[index]
            text = tokenizer.decode(found.tokens[row].tolist())
            predictions[index] = Prediction(
                clip.id, clip.question, clip.target, text, float(found.score[row])
            )
            if index in gates_of:
                start, count = int(batch.frame_start[row]), int(batch.frame_count[row])
                shown = np.linspace(start, start + count - 1, min(FRAMES_SHOWN, count)).round().astype(int)
                tokens = tokenizer.pieces(batch.question[row][batch.question_mask[row]].tolist())
                gates[index] = Gate(tokens, found.gate[row][found.mask[row]], batch.frames[shown])
    return [predictions[index] for index in range(len(source))], gates


def score_predictions(predictions: list[Prediction], config: Config) -> dict[str, Any]:
    """All metrics of a split, with the copy-question baseline beside them."""
    return metrics.evaluate(
        [row.prediction for row in predictions],
        [row.target for row in predictions],
        [row.question for row in predictions],
        characters=config.data.language == "zh_CN",
    )


def write_predictions(workdir: Path, split: str, predictions: list[Prediction]) -> None:
    """`WORKDIR/predictions.<split>.jsonl`."""
    write_jsonl(workdir / f"predictions.{split}.jsonl", map(asdict, predictions))


def draw_heatmaps(workdir: Path, predictions: list[Prediction], gates: dict[int, Gate]) -> None:
    """`WORKDIR/heatmaps/<clip>.png` as in Fig. 4."""
    for index, gate in sorted(gates.items()):
        row = predictions[index]
        save_heatmap(
            workdir / "heatmaps" / f"{row.id}.png",
            tokens=gate.tokens,
            gate=gate.weights,
            frames=gate.frames,
            question=row.question,
            target=row.target,
            prediction=row.prediction,
        )


def mean_loss(
    stage: Stage, source: ClipSource, tokenizer: Tokenizer, config: Config, mesh: Mesh
) -> Callable[[TrainState], dict[str, float]]:
    """The stage's loss and its parts on a split: means over batches, weighted by their clips."""
    step = jax.jit(
        partial(eval_step, graphdef=stage.eval_def, loss=stage.loss), out_shardings=replicated(mesh)
    )
    batches = eval_batches(source, tokenizer, config.data, config.pretrain)

    def evaluate(state: TrainState) -> dict[str, float]:
        parts = []
        for batch in batches:
            values = step(state.params, state.batch_stats, shard_batch(batch, mesh))
            parts.append((int(batch.valid.sum()), jax.device_get(values)))
        num_clips = sum(clips for clips, _ in parts)
        return {
            key: sum(clips * float(values[key]) for clips, values in parts) / num_clips for key in parts[0][1]
        }

    return evaluate
