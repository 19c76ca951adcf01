"""A trained CNN's features of every frame of a split."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sslssaw_jax.config.checks import require
from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.progress import show_progress
from sslssaw_jax.training.sharding import replicated, shard_batch
from sslssaw_jax.types import Batch, TrainState


def extract_frames(
    stage: Stage,
    state: TrainState,
    clips: ClipSource,
    config: Config,
    tokenizer: Tokenizer,
    mesh: Mesh,
    only: Sequence[int],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield clips' places in the split, and their features, f32[T, C].

    No frame is left out, however long a clip is.

    Args:
        stage: A stage whose model has a CNN.
        state: Its parameters.
        clips: The split.
        config: Of the run.
        tokenizer: Of the run.
        mesh: The devices.
        only: Places of the clips to read.

    Raises:
        ConfigError: The model has no CNN of single frames.
    """
    video = getattr(nnx.merge(stage.eval_def, state.params, state.batch_stats), "video", None)
    require(
        getattr(video, "cnn", None) is not None,
        f"the model of the stage {stage.name} of {config.system!r} has no CNN of single frames whose "
        "features could be written",
    )
    longest, batch = int(clips.num_frames.max()), getattr(config, stage.name)
    budget = -(-max(batch.frame_budget, longest) // mesh.size) * mesh.size
    batches = eval_batches(
        clips,
        tokenizer,
        replace(config.data, max_frames=longest),
        replace(batch, frame_budget=budget),
        only=only,
    )
    cnn_step = partial(_cnn_step, graphdef=stage.eval_def, data=config.data)
    step = jax.jit(cnn_step, out_shardings=replicated(mesh))
    for each in show_progress(batches, len(only), f"features of {clips.split}"):
        on_devices = shard_batch(each, mesh)
        rows_NxC = np.asarray(step(state.eval_params, state.batch_stats, on_devices), np.float32)
        for row in np.flatnonzero(each.valid):
            start, count = each.frame_start[row], each.frame_count[row]
            yield int(each.index[row]), rows_NxC[start : start + count]


def _cnn_step(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, data: DataConfig
) -> jax.Array:
    model = nnx.merge(graphdef, params, batch_stats)
    return model.video.cnn(*prepare_frames(batch, data, None))
