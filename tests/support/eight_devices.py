"""Training steps under several meshes, in a process with eight CPU devices."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.config.stages import OptimConfig
from sslssaw_jax.stages import pretrain, sign_transformer, video
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.systems import ssl_ssaw
from sslssaw_jax.training import sharding
from sslssaw_jax.training.checkpoints import Checkpointer
from sslssaw_jax.training.optimizer import make_optimizer
from sslssaw_jax.types import Batch, TrainState
from tests.support.toy import (
    NO_DROPOUT,
    batch_for,
    jit,
    padded,
    pretrain_stage,
    random_model,
    toy_batch,
    toy_config,
    toy_system,
    translate_stage,
    translator,
)

FEATURES = {"data.features": ("a set",)}  # a CNN takes long to compile, and one stage has it
ALIGNED = {"stage": "pretrain", "model.alignment": "text_to_video"}
STAGES = {
    "aligned": (pretrain_stage, "ssl_ssaw", ALIGNED | FEATURES),
    "pretrain": (pretrain_stage, "ssl_ssaw", {"stage": "pretrain"} | FEATURES),
    "translate": (translate_stage, "ssl_ssaw", {}),
    "gaslt": (translate_stage, "gaslt", FEATURES),
}
KEY = jax.random.key(5)
# Before Flax takes its defaults from it: every parameter, cast and loss then has 64 bits.
WIDE = "import jax.numpy as jnp; jnp.float32 = jnp.float64; "


def start(stage: str, dtype: str, out: Path, *meshes: str) -> subprocess.Popen:
    """Start a process that writes `OUT/<mesh>.npz` for each mesh; `4x2` is data x fsdp."""
    wide = dtype == "float64"
    call = f"from tests.support.eight_devices import main; main({stage!r}, {str(out)!r}, {meshes})"
    return subprocess.Popen(
        [sys.executable, "-c", (WIDE if wide else "") + call],
        env=os.environ
        | {
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8 "
            "--xla_cpu_collective_call_terminate_timeout_seconds=3600",  # devices wait for each other
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": str(int(wide)),
        },
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )


def main(name: str, out: str, meshes: tuple[str, ...]) -> None:
    sharding.MIN_FSDP_SIZE = 64  # elements: splits the toy's arrays, too
    for module in (ssl_ssaw, sign_transformer, pretrain, video):
        module.compute_dtype = lambda name: jnp.dtype(jnp.float32)
    for shape in meshes:
        data, fsdp = map(int, shape.split("x"))
        devices = jax.devices()[: data * fsdp]
        mesh = jax.make_mesh((data, fsdp), sharding.AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
        remat = shape == "4x2"  # tested in passing: it must not change anything either
        np.savez(Path(out) / f"{shape}.npz", **step_on(mesh, name, remat, Path(out)))
    if name == "translate":
        np.savez(Path(out) / "accumulated.npz", **accumulated())


def six_rows(config: Config) -> Batch:
    """Make a batch of six clips; neither the clips nor their frames divide by eight."""
    batch = batch_for(config, toy_batch(seed=0, clips=6))
    assert len(batch.frames) % 8
    return batch


def random_state(stage: Stage, optimizer: optax.GradientTransformation) -> TrainState:
    _, params, batch_stats = nnx.split(random_model(lambda: stage.make_model(KEY)), nnx.Param, ...)
    ema = jax.tree.map(jnp.zeros_like, params)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), ema)


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def step_on(mesh: Mesh, name: str, remat: bool, folder: Path) -> dict[str, np.ndarray]:
    """Return state, metrics and a translation after one step; its momentum is the gradient."""
    make_stage, system, own_changes = STAGES[name]
    changes = {"translate.label_smoothing": 0.2, "compute.remat": remat} | own_changes
    config = toy_system(system, **changes)
    stage = make_stage(config)
    optimizer, _ = make_optimizer(OptimConfig(learning_rate=1.0, clip_norm=1.0), 10)
    state = random_state(stage, optimizer)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, sharding.with_shardings(state, mesh))
    step = jit(
        partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer, ema_decay=0.9),
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    state, metrics = step(jax.device_put(state, shardings), sharding.shard_batch(six_rows(config), mesh), KEY)
    found = flat({"state": state, "metrics": metrics})
    if name == "translate" and mesh.shape["fsdp"] > 1:
        pieces = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, state)
        found |= flat({"piece": pieces})
        with Checkpointer(folder / "checkpoints") as checkpointer:
            checkpointer.save(state, data={}, meta={})
            everywhere = sharding.replicated(Mesh(mesh.devices.reshape(8, 1), mesh.axis_names))
            template = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), state
            )
            restored = checkpointer.restore(template)
            assert restored and all(leaf.is_fully_replicated for leaf in jax.tree.leaves(restored[0]))
            found |= flat({"restored": restored[0]})
    if name == "translate":
        step = jit(translator(stage, config), out_shardings=sharding.replicated(mesh))
        batch = sharding.shard_batch(six_rows(config), mesh)
        translated = step(state.params, state.batch_stats, batch)
        found |= flat({"translation": jax.tree.map(lambda x: x[:6], translated)})
    return found


def accumulated() -> dict[str, np.ndarray]:
    """Return a step over two stacked batches and an empty one, and over one large batch."""
    stage = translate_stage(
        toy_config(**{"model.inputs": "question", "translate.label_smoothing": 0.2} | NO_DROPOUT)
    )
    optimizer = optax.sgd(1.0)
    step = jit(
        partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer, ema_decay=0.9)
    )
    batch = toy_batch(seed=1, clips=5).replace(frames=np.zeros((6, 16, 16, 3), np.uint8))
    parts = [jax.tree.map(lambda x, rows=rows: x[rows], batch) for rows in (slice(0, 3), slice(3, 5))]
    none = jax.tree.map(np.zeros_like, padded(parts[1], rows=1))
    stacked = jax.tree.map(
        lambda *rows: np.stack(rows),
        *(part.replace(frames=batch.frames) for part in (parts[0], padded(parts[1], rows=1), none)),
    )
    mesh = jax.make_mesh((4, 2), sharding.AXES, axis_types=(AxisType.Auto,) * 2)
    state = random_state(stage, optimizer)
    split = sharding.shard_batch(stacked, mesh)  # 3 rows and 6 frames, padded to 8 of each
    assert split.index.shape == (3, 8) and (np.asarray(split.index)[:, 3:] == -1).all()
    return flat({"large": step(state, batch, KEY), "stacked": step(state, split, KEY)})
