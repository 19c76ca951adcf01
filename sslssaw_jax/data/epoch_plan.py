"""Which clips make which batch: packing under a frame budget, planned before any video is read."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from sslssaw_jax.config.checks import ConfigError

OPEN_BATCHES = 16  # filled at the same time; more pack no better (0.8 % waste on PHOENIX-2014T)

_room = itemgetter(0)


def plan_epoch(
    num_frames: np.ndarray, clips_per_batch: int, frame_budget: int, seed: int, epoch: int | None
) -> list[np.ndarray]:
    """Packs every clip into exactly one batch of at most `clips_per_batch` clips and `frame_budget` frames.

    The clips come in random order, and each joins the fullest of the open batches that still has room for it
    (best-fit bin packing), so batches stay random: neither clips nor batches are sorted by length.

    Args:
      num_frames: i[num_clips], frames of each clip, already limited to what is kept of it.
      clips_per_batch: B.
      frame_budget: N.
      seed: of the run.
      epoch: each has its own order; None keeps that of the split as far as packing allows.

    Returns:
      The clips' indices, one array per batch.

    Raises:
      ConfigError: a clip is longer than the budget.
    """
    longest = int(num_frames.max(initial=0))
    if longest > frame_budget:
        raise ConfigError(
            f"clip {int(num_frames.argmax())} has {longest} frames and no batch may hold more than "
            f"{frame_budget}: raise frame_budget or lower data.max_frames to at most {frame_budget}"
        )
    rng = None if epoch is None else np.random.default_rng([seed, epoch])
    order = np.arange(len(num_frames)) if rng is None else rng.permutation(len(num_frames))
    batches: list[list[int]] = []
    open_batches: list[tuple[int, list[int]]] = []  # (frames left, clips), the fullest first
    for clip, frames in zip(order.tolist(), num_frames[order].tolist()):
        place = bisect.bisect_left(open_batches, frames, key=_room)
        if place < len(open_batches):
            room, batch = open_batches.pop(place)
        else:
            if len(open_batches) == OPEN_BATCHES:
                batches.append(open_batches.pop(0)[1])
            room, batch = frame_budget, []
        batch.append(clip)
        room -= frames
        if room == 0 or len(batch) == clips_per_batch:
            batches.append(batch)
        else:
            bisect.insort(open_batches, (room, batch), key=_room)
    batches += [batch for _, batch in open_batches]
    if rng is None:
        batches.sort()
    else:
        rng.shuffle(batches)  # else an epoch would end on what was left over
    return [np.array(batch) for batch in batches]


@dataclass(frozen=True)
class RunPlan:
    """All batches of a run in order, so that a position in the run is one integer."""

    batches: Sequence[np.ndarray]
    epoch_ends: np.ndarray  # i[epochs], the number of batches up to the end of each epoch

    @property
    def num_batches(self) -> int:
        return len(self.batches)

    def batch(self, position: int) -> tuple[int, np.ndarray]:
        """The epoch and the clips' indices of the batch at `position`."""
        return int(np.searchsorted(self.epoch_ends, position, side="right")), self.batches[position]


def plan_run(
    num_frames: np.ndarray,
    clips_per_batch: int,
    frame_budget: int,
    seed: int,
    epochs: int,
    multiple: int = 1,
) -> RunPlan:
    """`plan_epoch` for every epoch of a run, filled up with empty batches to a multiple of `multiple`."""
    plans = [plan_epoch(num_frames, clips_per_batch, frame_budget, seed, epoch) for epoch in range(epochs)]
    for plan in plans:
        plan += [np.zeros(0, int)] * (-len(plan) % multiple)
    return RunPlan(
        batches=[batch for plan in plans for batch in plan],
        epoch_ends=np.cumsum([len(plan) for plan in plans], dtype=int),
    )
