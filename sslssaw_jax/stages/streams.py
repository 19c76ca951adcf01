"""How a batch's frames and keypoints, or two feature sets, enter a two-stream model."""

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import require
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import prepare_frames, prepare_keypoints
from sslssaw_jax.data.keypoints import COCO_WHOLEBODY
from sslssaw_jax.models.two_stream import FeatureStreams, HeatMaps, Streams, TwoCNNs, TwoStreamS3D
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.stages.video import video_input
from sslssaw_jax.types import Batch

# face, hands, mouth and body, in the order of the heat maps' channels
CHANNELS = COCO_WHOLEBODY[23:69:3] + COCO_WHOLEBODY[91:] + COCO_WHOLEBODY[71:90:2] + COCO_WHOLEBODY[:11]


def make_streams(
    config: Config, inputs: StageInputs, dtype: jnp.dtype, rngs: nnx.Rngs
) -> TwoStreamS3D | TwoCNNs | FeatureStreams:
    """Make the module that turns frames and keypoints, or features, into positions."""
    model, data = config.model, config.data
    if data.features:
        strides = [one.stride for one in inputs.features]
        require(
            len(set(strides)) == 1,
            f"config.data.features is {data.features}, sets with the strides {strides}; the "
            "system 'ts_slt' joins both row by row: name sets of the same stride",
        )
        return FeatureStreams(model.cnn, inputs.features, max_frames=data.max_frames, rngs=rngs)
    heat_maps = make_heat_maps(config, inputs)
    if model.visual == "s3d":
        return TwoStreamS3D(model.s3d, heat_maps, max_frames=data.max_frames, dtype=dtype, rngs=rngs)
    reads = video_input(config, inputs)
    return TwoCNNs(model.cnn, model.cnn_width, heat_maps, reads, dtype=dtype, rngs=rngs)


def make_heat_maps(config: Config, inputs: StageInputs) -> HeatMaps:
    """Make heat maps of the set's points in `CHANNELS`.

    Raises:
        ConfigError: The set has none of these points.
    """
    points, data = list(inputs.keypoints), config.data
    columns = tuple(points.index(name) for name in CHANNELS if name in points)
    require(
        bool(columns),
        f"config.data.keypoints is {data.keypoints!r}, a set without any of the points that the "
        f"system 'ts_slt' reads: {', '.join(CHANNELS[-3:])}, ...",
    )
    sigma_y, sigma_x = (config.model.sigma / side / data.crop_fraction for side in config.model.raster)
    return HeatMaps(columns, data.image_size // 2, (sigma_y, sigma_x))


def read_streams(
    video: TwoStreamS3D | TwoCNNs | FeatureStreams,
    batch: Batch,
    config: Config,
    augment_key: jax.Array | None,
) -> Streams:
    """Let both streams read a batch; a key augments both alike."""
    if isinstance(video, FeatureStreams):
        frames, keypoints = batch.features
        return video(frames, keypoints, batch.valid)
    frames_NxHxWx3, frame_mask_N = prepare_frames(batch, config.data, augment_key)
    points_NxKx3 = prepare_keypoints(batch, config.data, augment_key)
    return video(frames_NxHxWx3, points_NxKx3, frame_mask_N, batch.packed_clips)
