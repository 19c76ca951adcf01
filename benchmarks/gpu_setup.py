"""What the sections of `benchmarks.gpu` share: the shipped configuration, clips, batches, stage and state.

Texts have the length of PHOENIX-2014T's, batches have the shipped size, and weights the right scale.
"""

import argparse
import ast
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import optax

from benchmarks.harness import VOCAB_SIZE
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.systems import SYSTEMS, read_config
from sslssaw_jax.types import Batch, TrainState

STAGES = {"stage2": ("translate", 8, 118), "stage1": ("pretrain", 16, 117)}  # clips and frames of a batch
TEXT = (
    "und nun die wettervorhersage fuer morgen freitag den dritten august im norden gibt es regen und im "
    "sueden scheint noch lange die sonne bei zwanzig bis dreissig grad an den kuesten weht ein starker wind"
)
NUM_WORDS = (14, 17, 19, 20, 21, 22, 24, 32)  # with two special tokens, the mean and spread of PHOENIX-2014T


def make_config(options: argparse.Namespace, stage: str) -> Config:
    """Return the shipped configuration, from scratch, with `--set` applied."""
    from benchmarks.loader import DATASET
    from configs import phoenix_stage2

    tree = phoenix_stage2.get_config()
    tree.stage = STAGES[stage][0]
    tree.data.update({"dataset": DATASET, "data_dir": str(options.clips / stage)})
    tree.model.mbart.weights = tree.model.cnn.weights = None
    tree.compute.dtype = "bfloat16"
    tree.translate.epochs = tree.pretrain.epochs = 1000
    if options.toy:
        tree.data.update({"image_size": 32, "max_frames": 32})
        tree.model.cnn.resnet.width = 8
        tree.model.mbart.update({"d_model": 32, "ffn_dim": 64, "video_layers": 1, "decoder_layers": 1})
        tree.model.mbart.text_layers = 1
        tree.model.fusion.ffn_dim = 64
        tree.decode.max_new_tokens = 8
        for group in (tree.translate, tree.pretrain):
            group.update({"clips_per_batch": 8, "frame_budget": 4 * 24})
    for change in options.set:
        key, value = change.split("=")
        tree.update_from_flattened_dict({key: ast.literal_eval(value)})
    return read_config(tree)


def sizes(options: argparse.Namespace, stage: str) -> tuple[int, int]:
    """Return clips of a batch and frames of a clip."""
    return (4, 24) if options.toy else STAGES[stage][1:]


def make_batches(config: Config, threads: int) -> Iterator[Batch]:
    from sslssaw_jax.data.batches import train_batches
    from sslssaw_jax.data.clips import ClipSource
    from sslssaw_jax.data.dataset import find_dataset
    from sslssaw_jax.data.mbart_tokenizer import load_tokenizer

    dataset = find_dataset(config.data.data_dir, config.data.dataset)
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language)
    data = dataclasses.replace(config.data, num_threads=threads)
    source, stage_config = ClipSource(dataset, "train"), getattr(config, config.stage)
    return train_batches(source, tokenizer, data, stage_config, seed=0).iterator()


def make_stage(config: Config) -> tuple[Stage, optax.GradientTransformation]:
    """Return the stage that `config.stage` names, and its optimizer."""
    from sslssaw_jax.training.optimizer import make_optimizer

    stage = SYSTEMS[config.system].make_stages(config, StageInputs(VOCAB_SIZE))[-1]
    return stage, make_optimizer(getattr(config, config.stage).optim, 1000)[0]


def draw_state(stage: Stage, optimizer: optax.GradientTransformation) -> TrainState:
    """Return a state drawn by NumPy, which compiles nothing."""
    import jax

    generator = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        if "opt_state" in name or not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        if "scale" in name or "var" in name:
            return np.ones(leaf.shape, leaf.dtype)
        if leaf.ndim < 2:
            return np.zeros(leaf.shape, leaf.dtype)
        deviation = np.float32(np.prod(leaf.shape[:-1]) ** -0.5)
        return generator.standard_normal(leaf.shape, np.float32) * deviation

    shapes = jax.eval_shape(functools.partial(stage.init, optimizer=optimizer), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def render_clips(options: argparse.Namespace) -> dict[str, Any]:
    """Render a batch of clips for each stage, unless there is one."""
    from benchmarks.loader import prepare

    words = TEXT.split()
    for stage in STAGES:
        folder = options.clips / stage
        if folder.exists():
            continue
        folder.mkdir(parents=True)
        clips, frames = sizes(options, stage)
        texts = [
            (" ".join(words[-NUM_WORDS[(i + 3) % 8] :]), " ".join(words[: NUM_WORDS[i % 8]]))
            for i in range(clips)
        ]
        prepare(folder, frames, texts, vocab_size=70)
    return {}
