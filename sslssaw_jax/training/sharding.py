"""The device mesh, and the layout of batches and states on it.

Model code is written for the global batch and knows nothing of this; the compiler adds the communication.
"""

import math
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import MeshConfig
from sslssaw_jax.types import Batch

AXES = ("data", "fsdp")
NVIDIA = Path("/dev/nvidiactl")  # is there if the driver is
MIN_FSDP_SIZE = 2**16  # elements; gathering a smaller leaf costs more than replicating it


def make_mesh(config: MeshConfig) -> Mesh:
    """Make the mesh of all devices.

    A size of -1 takes the remaining devices. Axes are `Auto`: with `Explicit`, the default of JAX,
    contrastive logits do not compile.

    Raises:
        ConfigError: The sizes do not multiply to the number of devices.
    """
    num_devices = jax.device_count()
    chosen = jax.config.jax_platforms or os.environ.get("CUDA_VISIBLE_DEVICES") == ""  # type: ignore[attr-defined]
    if jax.default_backend() == "cpu" and NVIDIA.exists() and not chosen and jax.process_index() == 0:
        warnings.warn(
            'this machine has an NVIDIA GPU, but JAX uses the CPU: run pip install "jax[cuda13]", and unset '
            "LD_LIBRARY_PATH if it is set, since it can hide what this installs; JAX_PLATFORMS=cpu in the "
            "environment chooses the CPU",
            stacklevel=1,
        )
    sizes = [config.data, config.fsdp]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    if min(sizes) < 1 or math.prod(sizes) != num_devices:
        raise ConfigError(
            f"config.mesh.data={config.data} and config.mesh.fsdp={config.fsdp} do not fit {num_devices} "
            f"device{'s' if num_devices > 1 else ''}: their product must be {num_devices}, and one may be -1"
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def one_device() -> Mesh:
    """Return the mesh of the first device only."""
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((1,) * len(AXES), AXES, axis_types=types, devices=jax.local_devices()[:1])


def device_names(mesh: Mesh) -> str:
    """Return the names of the devices, such as `4 x Tesla T4`."""
    kinds = Counter(device.device_kind for device in mesh.devices.flat)
    return ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that holds the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits an axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXES))


def with_shardings(state: Any, mesh: Mesh) -> Any:
    """Return the abstract state with the sharding of each leaf.

    Leaves of at least `MIN_FSDP_SIZE` elements are split over "fsdp" along their largest divisible axis.
    Other leaves are replicated, and so are all leaves if "fsdp" is 1.
    """

    def sharded(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, _spec(leaf.shape, mesh.shape["fsdp"]))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(sharded, state)


def _spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    divisible = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < MIN_FSDP_SIZE or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * largest, "fsdp")


def local_frames(mesh: Mesh, frame_budget: int) -> range:
    """Return the range of packed frames on this process's devices."""
    whole = (frame_budget + -frame_budget % mesh.size,)  # as padded by `shard_batch`
    indices = batch_sharding(mesh).addressable_devices_indices_map(whole).values()
    parts = [range(frame_budget)[index[0]] for index in indices if index]
    return range(min(part.start for part in parts), max(part.stop for part in parts))


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Put a batch on the devices, with rows and frames split evenly.

    Empty rows and frames are added where the numbers do not divide. Every process has the same batch,
    but only its `local_frames` need to be filled.
    """
    axis = batch.valid.ndim - 1  # after the axis of micro-batches, if any
    sharding = batch_sharding(mesh, axis)

    def put(value: np.ndarray, filling: int = 0) -> jax.Array:
        if missing := -value.shape[axis] % mesh.size:
            widths = [(0, missing if place == axis else 0) for place in range(value.ndim)]
            value = np.pad(value, widths, constant_values=filling)
        return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)

    index = put(batch.index, filling=-1)
    return jax.tree.map(put, batch).replace(index=index)  # type: ignore[attr-defined]
