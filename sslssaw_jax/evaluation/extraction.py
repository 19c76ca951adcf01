"""The features of a split that a trained CNN finds in each frame, or S3D in every four frames."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import numpy as np
from flax import nnx

from sslssaw_jax.config.checks import require
from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import Dataset
from sslssaw_jax.data.feature_writer import FeatureWriter
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.models.s3d import STRIDE, S3DEmbedding
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.video import embed_video
from sslssaw_jax.types import Batch, TrainState


def row_stride(stage: Stage, state: TrainState, system: str) -> int:
    """Return the frames from one row of extracted features to the next.

    Args:
        stage: The stage that was trained.
        state: Its parameters.
        system: The name of its system, for the message.

    Raises:
        ConfigError: The model has neither a CNN of single frames nor S3D.
    """
    video = getattr(nnx.merge(stage.eval_def, state.params, state.batch_stats), "video", None)
    if isinstance(video, S3DEmbedding):
        return STRIDE
    require(
        getattr(video, "cnn", None) is not None,
        f"the model of the stage {stage.name} of {system!r} has no CNN for single frames and no S3D whose "
        "features could be written",
    )
    return 1


def write_features(
    runner: Runner, state: TrainState, dataset: Dataset, name: str, *, run: str, overwrite: bool
) -> str:
    """Write all clips' features as a set; return what was written.

    Args:
        runner: Of a stage whose model has a CNN or S3D.
        state: Its parameters.
        dataset: The prepared dataset, whose folder gets the set.
        name: Of the set.
        run: The name of the run, which the set keeps.
        overwrite: Whether to replace a set of this name; otherwise an unfinished one is continued.

    Raises:
        DatasetError: The set exists.
        ConfigError: The model has neither a CNN of single frames nor S3D.
    """
    stage, config, digest = runner.stage, runner.config, hashlib.sha256()
    for leaf in jax.tree.leaves((state.eval_params, state.batch_stats)):
        digest.update(np.asarray(leaf).tobytes())
    stride = row_stride(stage, state, config.system)
    with FeatureWriter(
        dataset,
        name,
        stride=stride,
        source=f"{stage.name} in {run}, weights {digest.hexdigest()[:16]}",
        most_frames=None if stride == 1 else config.data.max_frames,
        overwrite=overwrite,
    ) as writer:
        for split in dataset.splits:
            clips = open_clips(dataset, config.data, split, video=stage.reads_video)
            written = writer.written(split)
            left = [place for place, clip in enumerate(clips.clips) if clip.id not in written]
            for place, rows in extract_features(runner, state, clips, left, stride):
                writer.add(split, clips.clips[place], rows)
        shown = ", ".join(f"{count:,} clips of {split}" for split, count in writer.finish().items())
    each = "a frame" if stride == 1 else f"for {stride} frames"
    return f"{name}: {shown}, {writer.found.width:,} numbers {each}"


def extract_features(
    runner: Runner, state: TrainState, clips: ClipSource, only: Sequence[int], stride: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield clips' places in the split, and their features, f32[rows, C].

    A CNN reads every frame, however long a clip is; S3D reads what its model does, `data.max_frames`.

    Args:
        runner: Of a stage whose model has a CNN or S3D.
        state: Its parameters.
        clips: The split.
        only: Places of the clips to read.
        stride: What `row_stride` returns.
    """
    data, stage_config = runner.config.data, runner.stage_config
    if stride == 1:
        data = replace(data, max_frames=int(clips.num_frames.max()))
        stage_config = replace(stage_config, frame_budget=max(stage_config.frame_budget, data.max_frames))
        runner = runner.with_batches(stage_config, data=data)
    read = runner.compile(_rows_of_clips if stride > 1 else _rows_of_frames, data=data)
    for each, rows in runner.over(clips, read, state, f"features of {clips.split}", only=only):
        for row in np.flatnonzero(each.valid):
            start, count = each.frame_start[row], each.frame_count[row]
            found = rows[row, : -(-count // stride)] if stride > 1 else rows[start : start + count]
            yield int(each.index[row]), found.astype(np.float32)


def _rows_of_frames(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, data: DataConfig
) -> jax.Array:
    """Return the CNN's features of packed frames, [N, C]."""
    model = nnx.merge(graphdef, params, batch_stats)
    return model.video.cnn(*prepare_frames(batch, data, None))


def _rows_of_clips(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, data: DataConfig
) -> jax.Array:
    """Return S3D's features of clips, [B, T, C]."""
    return embed_video(nnx.merge(graphdef, params, batch_stats).video, batch, data, None)[0]
