"""Memory of a full-size training step by frame budget: `python -m benchmarks.memory`.

Nothing is allocated; all figures follow from shapes. "kept" is what the traced forward pass hands to the
backward pass: the same for every device, and more than a fusing compiler holds; a recomputed block adds its
own memory while it runs. "working" is `memory_analysis` of the step compiled for this machine's first device.
A CPU's compiler turns bfloat16 products into float32 and undoes rematerialisation, so its figure does not
predict a GPU's.
"""

import argparse
import datetime
import functools
import itertools
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from configs import phoenix_stage2
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.systems import SYSTEMS, read_config
from sslssaw_jax.training.optimizer import make_optimizer
from sslssaw_jax.training.sharding import abstract_state, make_mesh
from sslssaw_jax.types import Batch, Texts

STAGES = ("pretrain", "translate")
FRAMES_A_CLIP = 120  # PHOENIX-2014T's mean is 117
VOCAB_SIZE = 2454  # of mBART trimmed to PHOENIX-2014T
STORED = 256  # pixels a side
RESULTS = Path(__file__).parent / "results" / "memory.md"
HEADER = """| stage | frames | clips | remat | state GB | kept GB | working GB | compiled in s |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def gigabytes(tree: Any) -> float:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e9


def abstract_batch(config: Config, frames: int, clips: int) -> Batch:
    """Return the shapes of a batch."""

    def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    question, target = config.data.max_question_tokens, config.data.max_target_tokens
    texts = Texts(
        question=array(jnp.int32, clips, question),
        question_mask=array(jnp.bool_, clips, question),
        target=array(jnp.int32, clips, target),
        target_mask=array(jnp.bool_, clips, target),
    )
    return Batch(
        frames=array(jnp.uint8, frames, STORED, STORED, 3),
        frame_start=array(jnp.int32, clips),
        frame_count=array(jnp.int32, clips),
        decoder_texts=texts,
        text_tower_texts=texts,
        masked_target=array(jnp.int32, clips, target),
        masked_target_mask=array(jnp.bool_, clips, target),
        gloss=array(jnp.int32, clips, config.data.max_glosses),
        gloss_mask=array(jnp.bool_, clips, config.data.max_glosses),
        index=array(jnp.int32, clips),
        valid=array(jnp.bool_, clips),
    )


def row(name: str, frames: int, remat: str) -> str:
    """Return a row of the table."""
    tree = phoenix_stage2.get_config()
    tree.compute.update({"remat": remat == "blocks", "dtype": "bfloat16"})
    tree.stage = name
    config = read_config(tree)
    clips = frames // FRAMES_A_CLIP
    stage = SYSTEMS[config.system].make_stages(config, StageInputs(VOCAB_SIZE))[-1]
    optimizer, _ = make_optimizer(getattr(config, name).optim, num_steps=1000)
    mesh = make_mesh(config.mesh)
    state = abstract_state(functools.partial(stage.init, optimizer=optimizer), mesh)
    step = functools.partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer)
    batch, key = abstract_batch(config, frames, clips), jax.eval_shape(lambda: jax.random.key(0))
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch, key)
    quick = {"xla_backend_optimization_level": 0} if jax.devices()[0].platform == "cpu" else None
    # without optimisation a CPU compiles faster and plans the same memory
    memory = lowered.compile(quick).memory_analysis()
    seconds = time.perf_counter() - start
    kept = jax.eval_shape(functools.partial(residuals, stage), state.params, state.batch_stats, batch, key)
    figures = (gigabytes(state), gigabytes(kept), memory.temp_size_in_bytes / 1e9)
    shown = " | ".join(f"{figure:.2f}" for figure in figures)
    return f"| {name} | {frames} | {clips} | {remat} | {shown} | {seconds:.0f} |"


def residuals(
    stage: Stage, params: nnx.State, batch_stats: nnx.State, batch: Batch, key: jax.Array
) -> Callable:
    """Return the backward pass, which holds its arrays of the forward pass."""

    def loss(params: nnx.State) -> jax.Array:
        return stage.loss(nnx.merge(stage.train_def, params, batch_stats, copy=True), batch, key)[0]

    return jax.vjp(loss, params)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--frames", nargs="+", type=int, default=[240, 480, 960, 1920])
    options = parser.parse_args()
    device = jax.devices()[0]
    title = (
        f"## {datetime.date.today()}, compiled for {device.device_kind}, jax {jax.__version__}\n\n"
        f"`{shlex.join(['python', '-m', 'benchmarks.memory', *sys.argv[1:]])}` on {platform.machine()} with "
        f"{os.cpu_count()} cores; bfloat16, one device, optimiser and sizes of `configs/phoenix_stage2.py`."
    )
    note = "\n\nWorking memory is that of a CPU: no measure of a GPU." if device.platform == "cpu" else ""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:

        def tell(line: str) -> None:
            print(line, flush=True)
            print(line, file=file, flush=True)

        tell(f"{title}{note}\n\n{HEADER}")
        for stage, frames, remat in itertools.product(options.stages, options.frames, ("none", "blocks")):
            tell(row(stage, frames, remat))
        print(file=file)


if __name__ == "__main__":
    main()
