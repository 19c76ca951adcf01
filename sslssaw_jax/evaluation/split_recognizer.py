"""The glosses that a trained model recognises in a split, with their files and scores."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.glosses import BLANK
from sslssaw_jax.evaluation.gloss_decoding import align, prefix_beam
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.evaluation.wer import score_glosses
from sslssaw_jax.stages.recognition import recognize_step
from sslssaw_jax.types import TrainState
from sslssaw_jax.workdir import glosses_file, write_jsonl


@dataclass(frozen=True)
class GlossPrediction:
    """One line of `glosses.<split>.jsonl`."""

    id: str
    glosses: str  # from the annotation
    prediction: str
    score: float  # log-probability of the prediction
    times: list[tuple[float, float]]  # seconds: about when each predicted gloss begins and ends


class SplitRecognizer:
    """A recogniser of the glosses of whole splits, compiled once.

    With one beam, the glosses come from the best path; with more, a prefix beam search finds them.

    Args:
        runner: Of a stage that recognises glosses.
        fps: Frames per second of the dataset's clips.
    """

    def __init__(self, runner: Runner, fps: float) -> None:
        assert runner.stage.recognition is not None
        self._runner, self._fps = runner, fps
        self._recognize = runner.compile(recognize_step, recognition=runner.stage.recognition)

    def __call__(self, state: TrainState, clips: ClipSource) -> list[GlossPrediction]:
        """Return the glosses recognised in each clip, in the split's order."""
        glosses, beams = self._runner.glosses, self._runner.config.decode.beams
        assert glosses is not None
        found: dict[int, GlossPrediction] = {}
        progress = f"recognising {clips.split}"
        for batch, result in self._runner.over(clips, self._recognize, state, progress):
            for row in np.flatnonzero(batch.valid):
                clip = clips.clips[batch.index[row]]
                log_probs_TxG = result.log_probs[row][result.mask[row]]
                if beams == 1:
                    best_T = log_probs_TxG.argmax(axis=-1).tolist()
                    ids = tuple(one for one, _ in groupby(best_T) if one != BLANK)
                    score = float(log_probs_TxG.max(axis=-1).sum())
                else:
                    ids, score = prefix_beam(log_probs_TxG, beams)[0]
                position = clip.num_frames / self._fps / len(log_probs_TxG)  # seconds
                times = [
                    (round(a * position, 2), round(b * position, 2)) for a, b in _spans(log_probs_TxG, ids)
                ] * bool(position)  # unknown for clips without frames
                text = glosses.decode(ids)
                found[int(batch.index[row])] = GlossPrediction(clip.id, clip.gloss, text, score, times)
        return [found[index] for index in sorted(found)]


def _spans(log_probs_TxG: np.ndarray, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return each gloss's first position, and the one after its last."""
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
