import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from sslssaw_jax.config import ConfigError, MeshConfig
from sslssaw_jax.sharding import AXES, make_mesh, shard_batch, state_sharding
from sslssaw_jax.types import Batch

# What needs several devices runs in one process of its own, which has eight; it prints what came out.
ON_EIGHT_DEVICES = """
import json, sys
from functools import partial
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from sslssaw_jax.checkpointing import Checkpointer
from sslssaw_jax.config import MeshConfig
from sslssaw_jax.sharding import make_mesh, replicated, shard_batch, state_sharding
from sslssaw_jax.types import Batch, TrainState
from tests.test_sharding import make_batch, error_of

def init():
    model = nnx.Sequential(nnx.Linear(64, 1024, rngs=nnx.Rngs(0)), nnx.Linear(1024, 1, rngs=nnx.Rngs(1)))
    graph, params = nnx.split(model, nnx.Param)
    return graph, TrainState(jnp.int32(0), params, {}, tx.init(params))

def train(mesh):
    graph = nnx.eval_shape(init)[0]
    sharding = state_sharding(mesh, jax.eval_shape(lambda: init()[1]))
    state = jax.jit(lambda: init()[1], out_shardings=sharding)()
    batch = shard_batch(make_batch(rows=16, frames=32), mesh)
    @partial(jax.jit, out_shardings=(sharding, replicated(mesh)))  # else the compiler splits biases too
    def step(state, batch):
        x = jax.nn.one_hot(batch.question[:, 0], 64) + batch.index[:, None] / 16
        def loss(params):
            y = nnx.merge(graph, params)(x)
            return jnp.mean((y - jnp.mean(y) - batch.target[:, :1]) ** 2)  # needs the global batch
        value, grads = jax.value_and_grad(loss)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), value
    losses = []
    for _ in range(3):
        state, value = step(state, batch)
        losses.append(float(value))
    return state, batch, losses

tx = optax.adamw(1e-2)
data_mesh, fsdp_mesh = make_mesh(MeshConfig()), make_mesh(MeshConfig(data=-1, fsdp=2))
_, _, data_losses = train(data_mesh)
state, batch, fsdp_losses = train(fsdp_mesh)
kernel = state.params["layers"][0].kernel[...]
bias = state.params["layers"][0].bias[...]
with Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(state, data={}, meta={})
    everywhere = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(data_mesh)), state)
    restored, _, _ = checkpointer.restore(everywhere)
print(json.dumps({
    "mesh": {"default": dict(data_mesh.shape), "fsdp": dict(fsdp_mesh.shape)},
    "losses": {"data": data_losses, "fsdp": fsdp_losses},
    "kernel": [kernel.shape, kernel.addressable_shards[0].data.shape],
    "bias": [bias.shape, bias.addressable_shards[0].data.shape],
    "momentum": state.opt_state[0].mu["layers"][0].kernel[...].addressable_shards[0].data.shape,
    "rows": sorted(shard.index[0].start for shard in batch.index.addressable_shards),
    "frames": batch.frames.addressable_shards[0].data.shape,
    "restored": all(bool(np.array_equal(a, b)) and b.is_fully_replicated
                    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True)),
    "rows_error": error_of(lambda: shard_batch(make_batch(rows=12, frames=32), data_mesh)),
    "frames_error": error_of(lambda: shard_batch(make_batch(rows=16, frames=30), data_mesh)),
    "mesh_error": error_of(lambda: make_mesh(MeshConfig(data=-1, fsdp=3))),
}))
"""


def make_batch(rows: int, frames: int) -> Batch:
    tokens = np.arange(rows * 4, dtype=np.int32).reshape(rows, 4) % 64
    mask = np.ones((rows, 4), bool)
    return Batch(
        frames=np.zeros((frames, 2, 2, 3), np.uint8),
        frame_start=np.zeros(rows, np.int32),
        frame_count=np.zeros(rows, np.int32),
        question=tokens,
        question_mask=mask,
        target=tokens % 7,
        target_mask=mask,
        masked_target=tokens,
        masked_target_mask=mask,
        index=np.arange(rows, dtype=np.int32),
        valid=np.ones(rows, bool),
    )


def error_of(call) -> str:
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> dict:
    flags = "--xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, "-c", ON_EIGHT_DEVICES, str(tmp_path_factory.mktemp("checkpoints"))],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_mesh_takes_all_devices(eight):
    assert eight["mesh"] == {"default": {"data": 8, "fsdp": 1}, "fsdp": {"data": 4, "fsdp": 2}}


def test_every_device_holds_its_own_rows_of_the_batch(eight):
    assert eight["rows"] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert eight["frames"] == [4, 2, 2, 3]


def test_fsdp_halves_large_arrays_and_their_optimiser_state_and_copies_small_ones(eight):
    assert eight["kernel"] == [[64, 1024], [64, 512]]
    assert eight["momentum"] == [64, 512]
    assert eight["bias"] == [[1024], [1024]]


def test_fsdp_changes_no_loss(eight):
    assert eight["losses"]["data"][0] != eight["losses"]["data"][-1]
    np.testing.assert_allclose(eight["losses"]["fsdp"], eight["losses"]["data"], rtol=1e-5)


def test_a_checkpoint_written_under_fsdp_restores_replicated(eight):
    assert eight["restored"]


def test_what_does_not_divide_is_an_error_that_names_the_knob(eight):
    assert eight["rows_error"].startswith("batch.frame_start has 12 rows for 8 devices")
    assert eight["rows_error"].endswith("make clips_per_batch a multiple of 8")
    assert eight["frames_error"].startswith("batch.frames has 30 rows for 8 devices")
    assert eight["frames_error"].endswith("make frame_budget a multiple of 8")
    assert "mesh.data=-1 and mesh.fsdp=3 do not fit 8 devices" in eight["mesh_error"]


@pytest.mark.parametrize(
    "config", [MeshConfig(jax.device_count() + 1, 1), MeshConfig(1, 0), MeshConfig(-1, -1), MeshConfig(-2, 1)]
)
def test_a_mesh_that_does_not_fit_is_an_error(config):
    assert "do not fit" in error_of(lambda: make_mesh(config))


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
    assert state_sharding(mesh, jax.ShapeDtypeStruct(shape, np.float32)).spec == spec


def test_sharding_a_batch_changes_no_value():
    batch = make_batch(rows=jax.device_count(), frames=3 * jax.device_count())
    sharded = shard_batch(batch, make_mesh(MeshConfig()))
    for ours, theirs in zip(jax.tree.leaves(sharded), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(ours, theirs)
