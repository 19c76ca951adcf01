import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import MeshConfig
from sslssaw_jax.training import sharding
from sslssaw_jax.training.sharding import AXES, local_frames, make_mesh, shard_batch, with_shardings
from sslssaw_jax.types import Batch, Texts
from tests.support.eight_devices import start


def make_batch(rows: int, frames: int) -> Batch:
    tokens = np.arange(rows * 4, dtype=np.int32).reshape(rows, 4) % 64
    mask = np.ones((rows, 4), bool)
    texts = Texts(tokens, mask, tokens % 7, mask)
    return Batch(
        frames=np.zeros((frames, 2, 2, 3), np.uint8),
        frame_start=np.zeros(rows, np.int32),
        frame_count=np.zeros(rows, np.int32),
        decoder_texts=texts,
        text_tower_texts=texts,
        masked_target=tokens,
        masked_target_mask=mask,
        gloss=tokens,
        gloss_mask=mask,
        index=np.arange(rows, dtype=np.int32),
        valid=np.ones(rows, bool),
    )


def error_of(call) -> str:
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


RUNS = {
    ("translate", "float64"): ("1x1", "4x2"),
    ("aligned", "float32"): ("1x1", "4x2"),
    ("pretrain", "float64"): ("1x1", "4x2"),
    ("gaslt", "float64"): ("1x1", "4x2"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Folder of the results, by stage and float format."""
    folders = {run: tmp_path_factory.mktemp("_".join(run)) for run in RUNS}
    processes = [start(*run, folders[run], *meshes) for run, meshes in RUNS.items()]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return folders


def leaves(folder: Path, mesh: str, part: str) -> dict[str, np.ndarray]:
    """Arrays by path, from the state, the metrics or another part of the results under a mesh."""
    with np.load(folder / f"{mesh}.npz") as arrays:
        prefix = f"['{part}']"
        return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    """Within `tolerance` of the leaf's largest value, or of 1 where that is smaller."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = np.abs(found[name] - value.astype(float)).max() / max(np.abs(value).max(), 1)
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize(
    ("stage", "dtype", "mesh"), [(*run, mesh) for run, meshes in RUNS.items() for mesh in meshes[1:]]
)
@pytest.mark.slow
def test_a_step_on_eight_devices_is_that_of_one(outcomes, stage, dtype, mesh):
    """Losses, gradients (the momentum), parameters, their average and batch statistics; 4x2 with remat.

    The six clips and their frames do not divide by eight.
    """
    for part in ("metrics", "state"):
        expected = leaves(outcomes[stage, dtype], "1x1", part)
        assert {leaf.dtype.name for leaf in expected.values()} <= {dtype, "int32"}
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        assert_equal(leaves(outcomes[stage, dtype], mesh, part), expected, tolerance)


@pytest.mark.slow
def test_a_translation_on_eight_devices_is_that_of_one(outcomes):
    folder = outcomes["translate", "float64"]
    expected = leaves(folder, "1x1", "translation")
    assert len(np.unique(expected[".tokens"])) > 4
    assert_equal(leaves(folder, "4x2", "translation"), expected, 1e-12)


@pytest.mark.slow
def test_fsdp_splits_large_arrays_their_momentum_and_their_average_and_copies_small_ones(outcomes):
    folder = outcomes["translate", "float64"]
    whole, pieces = leaves(folder, "4x2", "state"), leaves(folder, "4x2", "piece")
    split = {name for name, piece in pieces.items() if piece.size * 2 == whole[name].size}
    assert split == {
        name for name, leaf in whole.items() if leaf.size >= 64 and any(size % 2 == 0 for size in leaf.shape)
    }
    for part in (".params", ".opt_state", ".ema"):
        assert any(name.startswith(part) for name in split)
    assert all(pieces[name].shape == whole[name].shape for name in whole.keys() - split)


@pytest.mark.slow
def test_a_checkpoint_written_under_fsdp_restores_replicated(outcomes):
    folder = outcomes["translate", "float64"]
    assert_equal(leaves(folder, "4x2", "restored"), leaves(folder, "4x2", "state"), 0)


@pytest.mark.slow
def test_a_step_over_stacked_batches_is_that_over_one_with_all_their_clips(outcomes):
    """In a model without BatchNorm; the batches' texts differ in length, and one batch is empty."""
    folder = outcomes["translate", "float64"]
    assert_equal(leaves(folder, "accumulated", "stacked"), leaves(folder, "accumulated", "large"), 1e-12)


def on(num_devices: int) -> AbstractMesh:
    """A mesh of this many devices, none of which is used."""
    return AbstractMesh((num_devices, 1), AXES, axis_types=(AxisType.Auto,) * 2)


class OfProcess(NamedTuple):
    """A sharding over eight devices, as one of four processes sees it."""

    process: int

    def addressable_devices_indices_map(self, shape: tuple[int]) -> dict[int, tuple[slice]]:
        assert shape[0] % 8 == 0
        each = shape[0] // 8
        own = (2 * self.process, 2 * self.process + 1)
        return {device: (slice(each * device, each * (device + 1)),) for device in own}


@pytest.mark.parametrize("budget", [1, 10, 30, 32])
def test_processes_together_read_every_frame_once(budget, monkeypatch):
    read = []
    for process in range(4):
        monkeypatch.setattr(sharding, "batch_sharding", lambda mesh, process=process: OfProcess(process))
        read += local_frames(on(8), budget)
    assert read == list(range(budget))


@pytest.mark.parametrize(
    "config", [MeshConfig(jax.device_count() + 1, 1), MeshConfig(1, 0), MeshConfig(-1, -1), MeshConfig(-2, 1)]
)
def test_a_mesh_that_does_not_fit_is_an_error(config):
    assert "do not fit" in error_of(lambda: make_mesh(config))


def test_a_machine_whose_accelerator_is_not_used_is_a_warning(monkeypatch, tmp_path):
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(sharding, "NVIDIA", tmp_path / "nvidiactl")
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def told(platforms: str | None = None) -> list[str]:
        jax.config.update("jax_platforms", platforms)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            make_mesh(MeshConfig())
        return [str(warning.message) for warning in found]

    chosen = jax.config.jax_platforms
    try:
        [message] = told()
        assert "an NVIDIA GPU, but JAX uses the CPU" in message and "LD_LIBRARY_PATH" in message
        assert told("cpu") == [], "the CPU was chosen"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert told() == [], "no GPU was chosen"
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        assert told() == [], "the first of several processes tells"
        monkeypatch.setattr(jax, "process_index", lambda: 0)
        (tmp_path / "nvidiactl").unlink()
        assert told() == [], "there is no GPU"
    finally:
        jax.config.update("jax_platforms", chosen)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((512, 1024), PartitionSpec(None, "fsdp")),
        ((1024, 512), PartitionSpec("fsdp")),
        ((1023, 512), PartitionSpec(None, "fsdp")),  # the largest axis does not divide
        ((1023, 511), PartitionSpec()),
        ((16, 1024), PartitionSpec()),  # small
        ((), PartitionSpec()),
    ],
)
def test_the_largest_divisible_axis_of_a_large_array_is_split(shape, spec):
    mesh = AbstractMesh((1, 4), AXES, axis_types=(AxisType.Auto,) * 2)
    assert with_shardings(jax.ShapeDtypeStruct(shape, np.float32), mesh).sharding.spec == spec


def test_sharding_a_batch_changes_no_value():
    batch = make_batch(rows=jax.device_count(), frames=3 * jax.device_count())
    sharded = shard_batch(batch, make_mesh(MeshConfig()))
    for ours, theirs in zip(jax.tree.leaves(sharded), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)
