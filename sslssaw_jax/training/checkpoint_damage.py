"""Damage in a checkpoint: its files are compared with their digests, its arrays checked for NaN."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from sslssaw_jax.data.dataset import DIGESTS, file_digest, is_below
from sslssaw_jax.errors import UserError
from sslssaw_jax.workdir import checkpoint_notes, read_json

Shape = tuple[int, ...]
Arrays = Mapping[tuple[str, ...], tuple[str, Shape]]  # by path: dtype and shape
Check = Callable[[Path, dict[str, Any], Arrays], None]  # of a checkpoint, its notes and its arrays


def find_damage(folder: Path, check: Check = lambda folder, meta, saved: None) -> str:
    """Return what is damaged in a checkpoint, or "".

    Orbax itself would fill the terminal with tracebacks of its concurrent reads.

    Args:
        folder: The checkpoint.
        check: Raises a UserError for notes or shapes of another model, before any array is read.
    """
    state, meta = folder / "state", checkpoint_notes(folder)
    try:
        for part in (state, folder / "data", meta.parent):
            for name, digest in read_json(part / DIGESTS).items():
                file = part / name
                if not (is_below(name) and file.is_file()) or file_digest(file) != digest:
                    return f"{part.name}/{name} is not as it was written"
        for notes in (folder / "data" / "metadata", state / "_sharding"):
            read_json(notes)
        for part in (state / "array_metadatas").iterdir():  # one per process
            read_json(part)
        arrays = {without_value(path): array for path, array in open_arrays(state).items()}
        check(folder, read_json(meta), {path: (x.dtype.name, tuple(x.shape)) for path, x in arrays.items()})
        for path, array in arrays.items():
            if not np.isfinite(array.read().result()).all():
                return f"{'.'.join(path)} holds NaN or infinity"
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # damaged bytes can raise anything
        if isinstance(error, UserError) and not isinstance(error, ValueError):  # of `check`
            raise
        return first_line(error)
    return ""


def open_arrays(state: Path) -> dict[tuple[str, ...], tensorstore.TensorStore]:
    """Open the arrays of a saved state, by path."""
    arrays = {}
    for leaf in read_json(state / "_METADATA")["tree_metadata"].values():
        if not leaf["value_metadata"]["skip_deserialize"]:  # an empty node, not an array
            path = tuple(str(level["key"]) for level in leaf["key_metadata"])
            kvstore = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{state}/"}}
            spec = {"driver": "zarr", "kvstore": kvstore, "path": ".".join(path)}
            arrays[path] = tensorstore.open(spec, read=True).result()
    return arrays


def first_line(error: Exception) -> str:
    """Return the first line of an error, without TensorStore's specification."""
    text = str(error).split(" [tensorstore_spec")[0]
    return next(iter(text.splitlines()), "") or type(error).__name__


def without_value(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return an array's path without Flax's last level."""
    return path[:-1] if path[-1] == "value" else path
