"""Where the training time of the README's first command goes: `python -m benchmarks.demo_time`.

For each stage of `configs/demo.py`, it measures the processor seconds for drawing the parameters, tracing and
compiling a step, and for all steps, from the fastest of six. Nothing comes from a compilation cache, as in a
first run.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.harness import keep
from configs import demo
from sslssaw_jax.data.batches import train_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.models.cpu_gradients import compiler_options
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.systems import SYSTEMS, read_config
from sslssaw_jax.training.host_memory import keep_freed_memory
from sslssaw_jax.training.optimizer import make_optimizer

STAGES = ("warm_start", "pretrain", "translate")


def seconds(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return a function's result and the processor time that it took."""
    start = time.process_time()
    result = jax.block_until_ready(function())
    return result, time.process_time() - start


def row(name: str, data_dir: str) -> tuple[str, ...]:
    """Return a stage's line of the table."""
    tree = demo.get_config()
    tree.data.data_dir, tree.init_from = data_dir, None
    tree.stage = "translate" if name == "translate" else "pretrain"
    config = read_config(tree)
    dataset = find_dataset(data_dir, config.data.dataset)
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language)
    vocab_sizes = tokenizer.vocab_size, tokenizer.text_tower.vocab_size
    inputs = StageInputs(*vocab_sizes, lambda split: ClipSource(dataset, split).clips)
    [stage] = [each for each in SYSTEMS[config.system].make_stages(config, inputs) if each.name == name]
    source = ClipSource(dataset, config.data.isolated_split if stage.isolated else config.data.train_split)
    batches = train_batches(source, tokenizer, config.data, getattr(config, name), seed=0)
    batch, key = next(batches.iterator()), jax.random.key(1)
    optimizer, _ = make_optimizer(getattr(config, name).optim, batches.num_batches)
    state, drawn = seconds(lambda: stage.init(jax.random.key(0), optimizer))
    step = functools.partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer)
    lowered, traced = seconds(lambda: jax.jit(step).lower(state, batch, key))
    compiled, compiling = seconds(lambda: lowered.compile(compiler_options()))
    fastest = min(seconds(lambda: compiled(state, batch, key))[1] for _ in range(6))
    figures = (drawn, traced, compiling, fastest, batches.num_batches, fastest * batches.num_batches)
    return name, *(f"{figure:.3g}" for figure in figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_dir", default="data", help="folder of the prepared avatar_qa")
    options = parser.parse_args()
    keep_freed_memory()  # as run.py does
    jax.config.update("jax_enable_compilation_cache", False)
    header = ("stage", "parameters, s", "tracing, s", "compiling, s", "a step, s", "steps", "all steps, s")
    title = "Training of the demo, processor seconds"
    keep("demo_time", title, header, [row(name, options.data_dir) for name in STAGES])


if __name__ == "__main__":
    main()
