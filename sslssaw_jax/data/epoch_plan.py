"""A run's batches: clips packed under a frame budget."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from sslssaw_jax.config.checks import ConfigError

OPEN_BATCHES = 16  # filled at the same time; more do not pack better (0.8 % waste on PHOENIX-2014T)

_room = itemgetter(0)
EpochClips = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""For each clip of an epoch, i[clips]: index, number of frames kept, and kind, see `plan_epoch`."""


def clip_rng(seed: int, epoch: int, clip: int) -> np.random.Generator:
    """Return the random generator for a clip in an epoch."""
    return np.random.default_rng([seed, epoch, clip])


def plan_epoch(
    num_frames: np.ndarray,
    clips_per_batch: int,
    frame_budget: int,
    seed: int,
    epoch: int | None,
    kinds: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Pack every clip of a split into one batch.

    Clips come in random order, and each joins the fullest open batch with enough room (best-fit bin packing).
    So batches stay random: neither the clips of a kind nor the batches are sorted by length.

    Args:
        num_frames: i[num_clips], the frames kept of each clip.
        clips_per_batch: B, the most clips in a batch.
        frame_budget: N, the most frames in a batch.
        seed: The run's seed.
        epoch: The number of the epoch, which has its own random order; None keeps the split's order as far as
            packing allows.
        kinds: i[num_clips], what clips must have in common to share a batch; None lets all share.

    Returns:
        The clips' indices, one array per batch.

    Raises:
        ConfigError: A clip is longer than the budget.
    """
    longest = int(num_frames.max(initial=0))
    if longest > frame_budget:
        raise ConfigError(
            f"clip {int(num_frames.argmax())} has {longest} frames and a batch holds at most "
            f"{frame_budget}: raise the stage's frame_budget, or set "
            f"--config.data.max_frames={frame_budget}"
        )
    rng = None if epoch is None else np.random.default_rng([seed, epoch])
    order = np.arange(len(num_frames)) if rng is None else rng.permutation(len(num_frames))
    batches: list[list[int]] = []
    for kind in [None] if kinds is None else np.unique(kinds):
        of_kind = order if kinds is None else order[kinds[order] == kind]
        batches += _pack(of_kind, num_frames, clips_per_batch, frame_budget)
    if rng is None:
        batches.sort()
    else:
        rng.shuffle(batches)  # otherwise an epoch would end with the emptiest batches
    return [np.array(batch) for batch in batches]


def _pack(
    order: np.ndarray, num_frames: np.ndarray, clips_per_batch: int, frame_budget: int
) -> list[list[int]]:
    """Pack clips in their order."""
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
    return batches + [batch for _, batch in open_batches]


@dataclass(frozen=True)
class RunPlan:
    """A run's batches in order; one integer is a position."""

    batches: Sequence[np.ndarray]
    epoch_ends: np.ndarray  # i[epochs], the number of batches up to the end of each epoch

    @property
    def num_batches(self) -> int:
        """Return the number of batches of all epochs."""
        return len(self.batches)

    def batch(self, position: int) -> tuple[int, np.ndarray]:
        """Return the epoch and the clips' indices of the batch at `position`."""
        return int(np.searchsorted(self.epoch_ends, position, side="right")), self.batches[position]


def plan_run(
    clips: Callable[[int], EpochClips],
    clips_per_batch: int,
    frame_budget: int,
    seed: int,
    epochs: int,
    multiple: int = 1,
) -> RunPlan:
    """Plan a run over the clips of each epoch, `clips(epoch)`.

    Empty batches fill an epoch up to a multiple of `multiple`.
    """
    plans = []
    for epoch in range(epochs):
        index, num_frames, kinds = clips(epoch)
        plan = plan_epoch(num_frames, clips_per_batch, frame_budget, seed, epoch, kinds)
        plans.append([index[batch] for batch in plan] + [np.zeros(0, int)] * (-len(plan) % multiple))
    return RunPlan(
        batches=[batch for plan in plans for batch in plan],
        epoch_ends=np.cumsum([len(plan) for plan in plans], dtype=int),
    )
