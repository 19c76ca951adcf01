"""What goes wrong in training: how it is noticed, what is told, and what is kept for inspection."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.errors import UserError
from sslssaw_jax.types import Batch
from sslssaw_jax.workdir import write_json

_FRAMES_SHOWN = 16  # of each clip, on one sheet
_FRAMES_A_ROW = 8


class TrainingError(UserError):
    """Training cannot go on; the message says at which step and why."""


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every number in `tree` is finite: bool[]."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def require_finite(
    step: int, values: Mapping[str, float], batch: Batch, clips: Sequence[ClipInfo], workdir: Path
) -> None:
    """Stops where `values` are not all finite, with the step's batch in `WORKDIR/nan_step_<step>/`.

    Args:
        step: its number.
        values: the loss and the gradient's norm, by name.
        batch: the step's.
        clips: of the split.
        workdir: of the stage.

    Raises:
        TrainingError: a value is NaN or infinite; names the step and the clips.
    """
    if all(map(np.isfinite, values.values())):
        return
    shown = ", ".join(f"{name} {value}" for name, value in values.items())
    folder = workdir / f"nan_step_{step}"
    ids = write_batch(folder, batch, clips)
    raise TrainingError(
        f"not finite at step {step:,}: {shown}; the latest checkpoint is from before, and the batch lies in "
        f"{folder}: {', '.join(ids)}. If its clips are sound, train in another --workdir with a lower "
        "optim.learning_rate or with optim.clip_norm"
    )


def write_batch(folder: Path, batch: Batch, clips: Sequence[ClipInfo]) -> list[str]:
    """Writes a batch for inspection and returns its clips' ids.

    `clips.json` has what is known of each clip, `<id>.png` shows its frames, `batch.npz` is the whole batch.
    Of several processes each writes the frames that it has read, its index in the names.
    """
    infos = [clips[index] for index in batch.index[batch.valid].tolist()]
    part = f".{jax.process_index()}" if jax.process_count() > 1 else ""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "clips.json", [asdict(info) for info in infos])
    arrays = jax.tree_util.tree_leaves_with_path(batch)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): array for path, array in arrays}
    np.savez_compressed(folder / f"batch{part}.npz", **named)
    for micro_batch in unstacked(batch):
        for row in np.flatnonzero(micro_batch.valid):
            start, count = micro_batch.frame_start[row], micro_batch.frame_count[row]
            shown = np.linspace(start, start + count - 1, min(_FRAMES_SHOWN, count)).round().astype(int)
            sheet = contact_sheet(micro_batch.frames[shown])
            picture = cv2.imencode(".png", sheet[..., ::-1])[1].tobytes()
            (folder / f"{clips[micro_batch.index[row]].id}{part}.png").write_bytes(picture)
    return [info.id for info in infos]


def unstacked(batch: Batch) -> list[Batch]:
    """The batches that a step accumulates over; itself where it is one."""
    if batch.valid.ndim == 1:
        return [batch]
    return [jax.tree.map(lambda x: x[i], batch) for i in range(len(batch.valid))]  # noqa: B023


def contact_sheet(frames_NxHxWx3: np.ndarray) -> np.ndarray:
    """Frames in rows on one image, u8[rows * H, columns * W, 3]."""
    count, height, width, _ = frames_NxHxWx3.shape
    columns = min(count, _FRAMES_A_ROW)
    missing = -count % columns
    cells = np.concatenate([frames_NxHxWx3, np.zeros((missing, height, width, 3), np.uint8)])
    grid = cells.reshape(-1, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(-1, columns * width, 3)


@contextmanager
def device_memory_told(stage: str) -> Iterator[None]:
    """Turns "out of memory" of a device into a `TrainingError` with the knobs to turn."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(
            f"{stage}: the device is out of memory ({str(error).splitlines()[0]}). In the order of what it "
            f"costs: set model.remat, split the batch with {stage}.accumulate, split the state over more "
            f"devices with mesh.fsdp, lower {stage}.frame_budget and {stage}.clips_per_batch"
        ) from error
