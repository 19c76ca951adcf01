"""The threshold and weight chosen on dev for a model that finds words and ranks sentences.

Both are variables of the model. The choices are kept with the scores of a checkpoint, by the names of these
variables, and whatever reads the checkpoint gets them.

C clips, W words.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.text import counts_characters
from sslssaw_jax.evaluation.metrics import score
from sslssaw_jax.evaluation.predictions import Found
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.evaluation.split_translator import SplitTranslator
from sslssaw_jax.stages.stage import RANK_WEIGHT, WORD_THRESHOLD, Existence, Stage
from sslssaw_jax.training.checkpoints import CheckpointError
from sslssaw_jax.types import Batch, TrainState
from sslssaw_jax.workdir import CHECKPOINTS, read_scores, saved_steps

WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of a sentence's score relative to its cosine


def require_choices(stage: Stage, workdir: Path) -> None:
    """Raise CheckpointError if a run has not made its choices yet."""
    checkpoints = workdir / CHECKPOINTS
    if stage.existence and saved_steps(checkpoints) and not read_scores(checkpoints):
        raise CheckpointError(
            f"{workdir} has not been scored on dev yet, where the threshold of words and the weight of ranks "
            "are chosen: start its training again to continue"
        )


class Chooser:
    """A chooser of what a stage with `existence` leaves open.

    Args:
        runner: Of a stage that translates by n-best and rank.
        translate: Of the stage.
    """

    def __init__(self, runner: Runner, translate: SplitTranslator) -> None:
        assert runner.stage.existence is not None
        self._runner, self._translate = runner, translate
        self._find = runner.compile(_find, existence=runner.stage.existence)

    def __call__(self, state: TrainState, dev: ClipSource) -> tuple[TrainState, dict[str, float]]:
        """Return the state with its choices, and these with the words' F1."""
        threshold, f1 = best_threshold(*self._existence(state, dev))
        state = _with(state, {WORD_THRESHOLD: threshold, RANK_WEIGHT: 0.0})  # ranks are now cosines
        found = self._translate.search(state, dev, progress=f"choosing the weight of scores on {dev.split}")
        weight = best_weight(list(found.values()), [clip.target for clip in dev.clips])
        chosen = {WORD_THRESHOLD: threshold, RANK_WEIGHT: weight}
        return _with(state, chosen), chosen | {"word_f1": f1}

    def _existence(self, state: TrainState, clips: ClipSource) -> tuple[np.ndarray, np.ndarray]:
        """Return logits of words, f32[C, W], and which words are there."""
        batches = self._runner.over(
            clips, self._find, state, f"words of {clips.split}", glosses=self._runner.glosses
        )
        logits, present = [], []
        for batch, found_BxW in batches:
            present_BxW = np.zeros(found_BxW.shape, bool)
            rows_BxG = np.broadcast_to(np.arange(len(batch.valid))[:, None], batch.gloss.shape)
            present_BxW[rows_BxG[batch.gloss_mask], batch.gloss[batch.gloss_mask]] = True
            rows = np.flatnonzero(batch.valid)  # there may be more on several devices
            logits.append(found_BxW[rows])
            present.append(present_BxW[rows])
        return np.concatenate(logits), np.concatenate(present)


def _find(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, existence: Existence
) -> jax.Array:
    return existence(nnx.merge(graphdef, params, batch_stats), batch)


def _with(state: TrainState, chosen: dict[str, float]) -> TrainState:
    """Return the state with chosen values of variables."""
    batch_stats = jax.tree.map(lambda leaf: leaf, state.batch_stats)
    for name, value in chosen.items():
        batch_stats[name] = batch_stats[name].replace(np.float32(value))
    return state.replace(batch_stats=batch_stats)  # type: ignore[attr-defined]


def best_threshold(logits_CxW: np.ndarray, present_CxW: np.ndarray) -> tuple[float, float]:
    """Return the logit from which on words are taken, with their F1.

    The threshold lies halfway between two logits; if several are equally good, it is the highest.
    """
    order = np.argsort(-logits_CxW, axis=None, kind="stable")
    logits, hits = logits_CxW.ravel()[order], np.cumsum(present_CxW.ravel()[order])
    taken = np.arange(1, len(order) + 1)
    f1 = 2 * hits / (taken + max(hits[-1], 1))
    last = np.append(logits[:-1] > logits[1:], True)  # words with the same logit are taken together
    best = int(np.argmax(np.where(last, f1, -1)))
    below = logits[best + 1] if best + 1 < len(logits) else logits[best] - 1
    return float((logits[best] + below) / 2), 100 * float(f1[best])


def best_weight(found: Sequence[Found], targets: Sequence[str]) -> float:
    """Return the weight of scores relative to ranks with the highest BLEU-4.

    If several are equally good, it is the smallest.

    Args:
        found: The sentences of each clip, whose ranks are their cosines.
        targets: Of the clips.
    """
    characters = counts_characters(targets)

    def first(one: Found, weight: float) -> str:
        ranks = [rank + weight * sentence.score for rank, sentence in zip(one.ranks, one.sentences)]
        return one.sentences[int(np.argmax(ranks))].text

    def bleu4(weight: float) -> float:
        return score([first(one, weight) for one in found], targets, characters=characters)["bleu4"]

    return max(WEIGHTS, key=bleu4)
