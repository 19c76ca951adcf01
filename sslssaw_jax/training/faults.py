"""Faults in training: their detection, the message, and what is kept."""

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

_FRAMES_PER_SHEET = 16
_FRAMES_PER_ROW = 8


class TrainingError(UserError):
    """An error that ends training; its message names step and reason."""


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Return whether every number in `tree` is finite, bool[]."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def steadier(stage: str) -> str:
    """Return the remedy for a stage whose numbers are not finite."""
    optim = f"--config.{stage}.optim"
    return f"train in another --workdir with a lower {optim}.learning_rate, or {optim}.clip_norm of at most 1"


def require_finite(
    stage: str,
    step: int,
    values: Mapping[str, float],
    batch: Batch,
    clips: Sequence[ClipInfo],
    workdir: Path,
) -> None:
    """Write the batch and raise if a value is not finite.

    Args:
        stage: Name of the stage.
        step: Number of the step.
        values: The loss and the norm of the gradient, by name.
        batch: The batch of the step.
        clips: All clips of the split.
        workdir: Gets the batch in `nan_step_<step>/`.

    Raises:
        TrainingError: A value is NaN or infinite; names the step and the clips.
    """
    if all(map(np.isfinite, values.values())):
        return
    shown = ", ".join(f"{name} {value}" for name, value in values.items())
    folder = workdir / f"nan_step_{step}"
    ids = write_batch(folder, batch, clips)
    raise TrainingError(
        f"not finite at step {step:,}: {shown}; the latest checkpoint is from an earlier step, and the batch "
        f"is in {folder}: {', '.join(ids)}. If these clips are sound, {steadier(stage)}"
    )


def write_batch(folder: Path, batch: Batch, clips: Sequence[ClipInfo]) -> list[str]:
    """Write a batch for inspection and return the ids of its clips.

    `clips.json` has the annotation of each clip, `<id>.png` shows its frames, if any, `batch.npz` is the
    whole batch.
    Each of several processes writes the frames that it has read, with its index in the file names.
    """
    infos = [clips[index] for index in batch.index[batch.valid].tolist()]
    part = f".{jax.process_index()}" if jax.process_count() > 1 else ""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "clips.json", [asdict(info) for info in infos])
    arrays = jax.tree.leaves_with_path(batch)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): array for path, array in arrays}
    np.savez_compressed(folder / f"batch{part}.npz", **named)
    for micro_batch in _micro_batches(batch) if not batch.features else ():  # features show nothing
        # a stage on texts has no frames
        for row in np.flatnonzero(micro_batch.valid & (micro_batch.frame_count > 0)):
            start, count = micro_batch.frame_start[row], micro_batch.frame_count[row]
            shown = np.linspace(start, start + count - 1, min(_FRAMES_PER_SHEET, count)).round().astype(int)
            sheet = contact_sheet(micro_batch.frames[shown])
            picture = cv2.imencode(".png", sheet[..., ::-1])[1].tobytes()
            (folder / f"{clips[micro_batch.index[row]].id}{part}.png").write_bytes(picture)
    return [info.id for info in infos]


def _micro_batches(batch: Batch) -> list[Batch]:
    """Return the micro-batches of a batch, itself if not stacked."""
    if batch.valid.ndim == 1:
        return [batch]
    return [jax.tree.map(lambda x: x[i], batch) for i in range(len(batch.valid))]  # noqa: B023


def contact_sheet(frames_NxHxWx3: np.ndarray) -> np.ndarray:
    """Arrange frames in rows on one image, u8[H_image, W_image, 3]."""
    count, height, width, _ = frames_NxHxWx3.shape
    columns = min(count, _FRAMES_PER_ROW)
    missing = -count % columns
    cells = np.concatenate([frames_NxHxWx3, np.zeros((missing, height, width, 3), np.uint8)])
    grid = cells.reshape(-1, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(-1, columns * width, 3)


@contextmanager
def explain_device_errors(stage: str) -> Iterator[None]:
    """Turn a device's commonest errors into ones that name remedies."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "DNN library initialization failed" in str(error):
            raise TrainingError(
                f"{stage}: cuDNN does not start on this GPU. Another program may hold its memory (see "
                "`nvidia-smi`), or cuDNN is older than JAX asks for, or too new for a GPU older than Turing "
                "(docs/training.md); with TF_CPP_MIN_LOG_LEVEL=0 in the environment, the lines before this "
                "one say which"
            ) from error
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(
            f"{stage}: the device is out of memory ({str(error).splitlines()[0]}). Remedies, the cheapest "
            "first: end other programs on the device, let JAX have more than three quarters of it with "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment, set config.compute.remat (half the "
            "memory, some 30 % more time), split the state over more devices with config.mesh.fsdp, split "
            f"the batch with config.{stage}.accumulate, lower config.{stage}.frame_budget and "
            f"config.{stage}.clips_per_batch"
        ) from error
