"""The glosses that a trained model recognises in a split, with their files and scores."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.glosses import BLANK, GlossVocabulary
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.evaluation.gloss_decoding import align, prefix_beam
from sslssaw_jax.evaluation.wer import score_glosses
from sslssaw_jax.stages.recognition import recognize_step
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.progress import show_progress
from sslssaw_jax.training.sharding import local_frames, replicated, shard_batch
from sslssaw_jax.types import TrainState
from sslssaw_jax.workdir import glosses_file, write_jsonl


@dataclass(frozen=True)
class GlossPrediction:
    """One line of `glosses.<split>.jsonl`."""

    id: str
    glosses: str  # of the annotation
    prediction: str
    score: float  # log-probability of the prediction
    times: list[tuple[float, float]]  # seconds: about when each predicted gloss begins and ends


class SplitRecognizer:
    """A recogniser of the glosses of whole splits, compiled once.

    With one beam, the glosses are those of the best path; with more, a prefix beam search finds them.

    Args:
        stage: A stage that recognises glosses.
        config: Of the run.
        tokenizer: Of the dataset.
        glosses: Of the run.
        mesh: The devices.
        fps: Frames a second of the dataset's clips.
    """

    def __init__(
        self,
        stage: Stage,
        config: Config,
        tokenizer: Tokenizer,
        glosses: GlossVocabulary,
        mesh: Mesh,
        fps: float,
    ) -> None:
        assert stage.recognition is not None
        self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
        self._glosses, self._fps = glosses, fps
        self._stage_config = getattr(config, stage.name)
        step = partial(recognize_step, graphdef=stage.eval_def, recognition=stage.recognition)
        self._recognize = jax.jit(step, out_shardings=replicated(mesh))

    def __call__(self, state: TrainState, clips: ClipSource) -> list[GlossPrediction]:
        """Return what is recognised in each clip, in the split's order."""
        frames = local_frames(self._mesh, self._stage_config.frame_budget)
        batches = eval_batches(clips, self._tokenizer, self._config.data, self._stage_config, frames)
        found: dict[int, GlossPrediction] = {}
        for batch in show_progress(batches, len(clips.clips), f"recognising {clips.split}"):
            on_devices = shard_batch(batch, self._mesh)
            result = jax.device_get(self._recognize(state.eval_params, state.batch_stats, on_devices))
            for row in np.flatnonzero(batch.valid):
                clip = clips.clips[batch.index[row]]
                log_probs_TxG = result.log_probs[row][result.mask[row]]
                if self._config.decode.beams == 1:
                    best_T = log_probs_TxG.argmax(axis=-1).tolist()
                    ids = tuple(one for one, _ in groupby(best_T) if one != BLANK)
                    score = float(log_probs_TxG.max(axis=-1).sum())
                else:
                    ids, score = prefix_beam(log_probs_TxG, self._config.decode.beams)[0]
                position = clip.num_frames / self._fps / len(log_probs_TxG)  # seconds
                times = [
                    (round(a * position, 2), round(b * position, 2)) for a, b in _spans(log_probs_TxG, ids)
                ] * bool(position)  # unknown of clips without frames
                text = self._glosses.decode(ids)
                found[int(batch.index[row])] = GlossPrediction(clip.id, clip.gloss, text, score, times)
        return [found[index] for index in sorted(found)]


def _spans(log_probs_TxG: np.ndarray, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return each gloss's first position, and the one behind its last."""
    spans, place = [], 0
    for gloss, run in groupby(align(log_probs_TxG, ids).tolist()):
        end = place + len(list(run))
        if gloss >= 0:
            spans.append((place, end))
        place = end
    return spans


def score_gloss_predictions(predictions: Sequence[GlossPrediction], dataset: str) -> dict[str, Any]:
    """Return a split's word error rate; see `score_glosses`."""
    return score_glosses(
        [row.prediction for row in predictions],
        [row.glosses for row in predictions],
        phoenix=dataset == "phoenix2014t_qa",
    )


def write_gloss_predictions(workdir: Path, split: str, predictions: Sequence[GlossPrediction]) -> None:
    """Write `WORKDIR/glosses.<split>.jsonl`."""
    write_jsonl(workdir / glosses_file(split), map(dataclasses.asdict, predictions))
