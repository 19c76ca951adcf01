"""TS-SLT (Chen et al. 2022), a recogniser of two streams with three translators; it reads no question.

One stream reads frames, the other keypoints as heat maps. The recogniser has a head on each stream and one on
both, which learn glosses by CTC and from each other: the mean of the three heads' probabilities teaches each
of them. Gloss2Text learns to write a sentence from true glosses. Three translators then read the gloss
features of one head each, and write together: in decoding their probabilities are averaged. Prepared features
of both streams may take the place of frames and keypoints.

Sizes, losses and recipe are known from the public code (FangyunWei/SLRT). A reconstruction in these points:
both streams are trained at once, from the Kinetics weights, where the public code trains each alone first;
the three translators are one model on one recogniser, trained by one command, where the public code trains
three; an enlargement in the pyramid has BatchNorm and ReLU behind both of its convolutions, and the pyramid
reads maps behind the exchange; a heat map is drawn in the network's own pixels, where the public code draws
it in those of the picture and resizes it. Padding is left out of the distillation. Augmentation is that of
the other rows. The small sizes have a CNN of frames and one of heat maps in place of both S3D, without
exchange and pyramid.

B clips, T positions in time, C features of a position, G glosses with the blank.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import NON_NEGATIVE, group, positive, require, setting
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import clip_of_frame, prepare_frames, prepare_keypoints
from sslssaw_jax.data.keypoints import COCO_WHOLEBODY
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.gloss_head import GLOSS_HEADS, GlossHeadConfig
from sslssaw_jax.models.mbart_writer import GlossToText, MBartWriter, MBartWriterConfig, Projection
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.s3d import S3DConfig
from sslssaw_jax.models.two_stream import FeatureStreams, HeatMaps, Streams, TwoCNNs, TwoStreamS3D
from sslssaw_jax.stages.gloss2text import encoded, gloss2text_stage, sentence_loss
from sslssaw_jax.stages.recognition import gloss_loss
from sslssaw_jax.stages.stage import OWN_COUNTS, LossCounts, Stage, StageInputs, System, Translation
from sslssaw_jax.stages.translation import ask_fewer_words, language_prompt
from sslssaw_jax.stages.video import split_key
from sslssaw_jax.stages.warm_start import CNN_MODULES, check_cnn_start, warm_start_stage
from sslssaw_jax.types import WER, Batch, Metrics

# face, hands, mouth and body, in the order of the heat maps' channels
CHANNELS = COCO_WHOLEBODY[23:69:3] + COCO_WHOLEBODY[91:] + COCO_WHOLEBODY[71:90:2] + COCO_WHOLEBODY[:11]
HEADS = ("video", "keypoints", "joint")
STAGES = ("recognize", "gloss2text", "translate")
_OF_WRITER = ("embedding", "ending", "encoder", "decoder")  # of Gloss2Text


@dataclass(frozen=True)
class TSSLTConfig:
    """The published sizes."""

    # what turns frames and heat maps into positions: two S3D, or two CNNs and convolutions over time
    visual: Literal["s3d", "cnn"] = "s3d"
    s3d: S3DConfig = group(S3DConfig)
    cnn: CNNConfig = group(CNNConfig)
    cnn_width: int = positive(512)  # features of a position behind a CNN
    sigma: float = positive(8.0)  # of a spot, in pixels of `raster`
    raster: tuple[int, ...] = (260, 210)  # height and width of the picture that `sigma` measures
    gloss_head: GlossHeadConfig = group(GlossHeadConfig)
    mapper: Literal["projection", "embedding"] = setting("projection", stages=("translate",))
    mbart: MBartWriterConfig = group(MBartWriterConfig, stages=("gloss2text", "translate"))
    # of the heads on the pyramids, and of what the three heads learn from each other
    video_level_weight: float = setting(0.2, NON_NEGATIVE, stages=("recognize",))
    keypoint_level_weight: float = setting(0.5, NON_NEGATIVE, stages=("recognize",))
    distill_weight: float = setting(1.0, NON_NEGATIVE, stages=("recognize",))
    ctc_weight: float = setting(1.0, NON_NEGATIVE, stages=("translate",))

    def __post_init__(self) -> None:
        require(
            len(self.raster) == 2 and min(self.raster) > 0,
            f"raster is {self.raster}; it must be a height and a width in pixels",
        )


class TwoStreams(nnx.Module):
    """Two streams with a head on each and one on both."""

    def __init__(self, config: Config, inputs: StageInputs, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        model: TSSLTConfig = config.model
        self.video = make_video(config, inputs, dtype, rngs)
        self.widths = (*self.video.widths, sum(self.video.widths))
        heads = zip(HEADS, self.widths)
        self.heads = nnx.Dict({name: _make_head(model, width, inputs, dtype, rngs) for name, width in heads})

    def read(
        self, batch: Batch, config: Config, augment_key: jax.Array | None, rngs: nnx.Rngs | None
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Streams]:
        """Return each head's logits and gloss features, and the streams."""
        streams = read_streams(self.video, batch, config, augment_key)
        both = jnp.concatenate([streams.keypoints, streams.video], axis=-1)
        logits, features = {}, {}
        for name, x_BxTxC in zip(HEADS, (streams.video, streams.keypoints, both)):
            logits[name], features[name] = self.heads[name](x_BxTxC, streams.mask, rngs)
        return logits, features, streams


class TwoStreamRecognizer(TwoStreams):
    """Two streams that learn glosses, with heads on the levels of their pyramids, too."""

    def __init__(self, config: Config, inputs: StageInputs, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(config, inputs, dtype=dtype, rngs=rngs)
        self.level_heads = nnx.List(
            [
                _make_head(config.model, width, inputs, dtype, rngs)
                for width in 2 * tuple(self.video.level_widths)  # of frames, then of keypoints
            ]
        )


class StreamWriter(MBartWriter):
    """An mBART that reads what a mapper makes of one head."""

    def __init__(self, config: Config, inputs: StageInputs, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        model: TSSLTConfig = config.model
        d_model = model.mbart.d_model
        super().__init__(model.mbart, inputs.vocab_size, dtype=dtype, rngs=rngs)
        self.mapper = (
            Projection(model.gloss_head.feature_width(width), d_model, dtype=dtype, rngs=rngs)
            if model.mapper == "projection"
            else nnx.Linear(inputs.glosses().size, d_model, use_bias=False, dtype=dtype, rngs=rngs)
        )

    def map(self, logits_BxTxG: jax.Array, feature_BxTxC: jax.Array) -> jax.Array:
        """Return what mBART reads, [B, T, D]."""
        projects = isinstance(self.mapper, Projection)
        return self.mapper(feature_BxTxC if projects else jax.nn.softmax(logits_BxTxG))


class TwoStreamTranslator(TwoStreams):
    """Two streams, and a writer for each head."""

    def __init__(self, config: Config, inputs: StageInputs, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(config, inputs, dtype=dtype, rngs=rngs)
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        writers = {
            name: StreamWriter(config, inputs, width, **options) for name, width in zip(HEADS, self.widths)
        }
        self.writers = nnx.Dict(writers)

    def states(
        self,
        logits: dict[str, jax.Array],
        features: dict[str, jax.Array],
        batch: Batch,
        mask_BxT: jax.Array,
        rngs: nnx.Rngs | None,
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Return the states and mask of each writer's encoder."""
        return {
            name: writer.read(writer.map(logits[name], features[name]), mask_BxT, batch.valid, rngs)
            for name, writer in self.writers.items()
        }


def _make_head(
    model: TSSLTConfig, width: int, inputs: StageInputs, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Module:
    head = model.gloss_head
    return GLOSS_HEADS[head.kind](head, width, inputs.glosses().size, dtype=dtype, rngs=rngs)


def make_video(
    config: Config, inputs: StageInputs, dtype: jnp.dtype, rngs: nnx.Rngs
) -> TwoStreamS3D | TwoCNNs | FeatureStreams:
    """Make what turns frames and keypoints, or features, into positions."""
    model, data = config.model, config.data
    if data.features:
        return FeatureStreams(model.cnn, inputs.features, max_frames=data.max_frames, rngs=rngs)
    heat_maps = make_heat_maps(config, inputs)
    if model.visual == "s3d":
        return TwoStreamS3D(model.s3d, heat_maps, max_frames=data.max_frames, dtype=dtype, rngs=rngs)
    sizes = {
        "image_size": data.image_size,
        "max_frames": data.max_frames,
        "frame_stride": data.frame_stride,
    }
    return TwoCNNs(model.cnn, model.cnn_width, heat_maps, **sizes, dtype=dtype, rngs=rngs)


def make_heat_maps(config: Config, inputs: StageInputs) -> HeatMaps:
    """Make heat maps of the set's points in `CHANNELS`.

    Raises:
        ConfigError: It has none.
    """
    points, data = list(inputs.keypoints), config.data
    columns = tuple(points.index(name) for name in CHANNELS if name in points)
    require(
        bool(columns),
        f"config.data.keypoints is {data.keypoints!r}, a set without any point that the system 'ts_slt' "
        f"reads: {', '.join(CHANNELS[-3:])}, ...",
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
    place = batch.frame_start, batch.frame_count, batch.valid, batch.left_out
    if isinstance(video, FeatureStreams):
        rows = [one.values for one in batch.features]
        return video(*rows, clip_of_frame(batch)[1], *place)
    frames_NxHxWx3, frame_mask_N = prepare_frames(batch, config.data, augment_key)
    points_NxKx3 = prepare_keypoints(batch, config.data, augment_key)
    return video(frames_NxHxWx3, points_NxKx3, frame_mask_N, *place)


def log_ensemble(logits: dict[str, jax.Array]) -> jax.Array:
    """Return the log of the heads' mean probability, f32[B, T, G]."""
    log_probs = jnp.stack([jax.nn.log_softmax(x_BxTxG) for x_BxTxG in logits.values()])
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))


def distillation_loss(
    logits: dict[str, jax.Array], mask_BxT: jax.Array, clips: jax.Array | None = None
) -> jax.Array:
    """Return `KL(ensemble || head)`, summed over heads and positions, per clip.

    The ensemble teaches and learns nothing.

    Args:
        logits: Of each head, [B, T, G].
        mask_BxT: The positions of a clip.
        clips: The number of clips of all micro-batches; None: those of this batch.
    """
    teacher_BxTxG = jax.lax.stop_gradient(log_ensemble(logits))
    total = jnp.zeros(())
    for x_BxTxG in logits.values():
        difference_BxTxG = teacher_BxTxG - jax.nn.log_softmax(x_BxTxG)
        divergence_BxT = (jnp.exp(teacher_BxTxG) * difference_BxTxG).sum(axis=-1)
        total += jnp.where(mask_BxT, divergence_BxT, 0).sum()
    return total / jnp.maximum(mask_BxT.any(axis=1).sum() if clips is None else clips, 1)


def recognize_loss(
    model: TwoStreamRecognizer,
    batch: Batch,
    key: jax.Array | None,
    counts: LossCounts = OWN_COUNTS,
    *,
    config: Config,
) -> tuple[jax.Array, Metrics]:
    """Return the loss of all heads with their distillation, and its parts."""
    augment_key, rngs = split_key(key)
    logits, _, streams = model.read(batch, config, augment_key, rngs)
    total, metrics = _heads_loss(logits, streams.mask, batch, counts)
    distilled = distillation_loss(logits, streams.mask, counts.clips)
    total += config.model.distill_weight * distilled
    metrics["loss_distill"] = distilled
    levels = (*streams.video_levels, *streams.keypoint_levels)
    weights = (config.model.video_level_weight, config.model.keypoint_level_weight)
    for number, (head, level_BxTxC) in enumerate(zip(model.level_heads, levels, strict=True)):
        assert streams.level_mask is not None
        level_logits = head(level_BxTxC, streams.level_mask, rngs)[0]
        weight = weights[number >= len(streams.video_levels)]
        total += weight * gloss_loss(level_logits, streams.level_mask, batch, counts)[0]
    return total, metrics


def translate_loss(
    model: TwoStreamTranslator,
    batch: Batch,
    key: jax.Array | None,
    counts: LossCounts = OWN_COUNTS,
    *,
    config: Config,
) -> tuple[jax.Array, Metrics]:
    """Return the writers' and the heads' loss, with its parts."""
    augment_key, rngs = split_key(key)
    logits, features, streams = model.read(batch, config, augment_key, rngs)
    states = model.states(logits, features, batch, streams.mask, rngs)
    glosses, metrics = _heads_loss(logits, streams.mask, batch, counts)
    total, sentences = config.model.ctc_weight * glosses, []
    for name, writer in model.writers.items():
        loss, parts = sentence_loss(writer, *states[name], batch, counts, config.translate, rngs)
        total += loss
        sentences.append(parts)
    means = jax.tree.map(lambda *parts: sum(parts) / len(parts), *sentences)
    return total, means | metrics


def _heads_loss(
    logits: dict[str, jax.Array], mask_BxT: jax.Array, batch: Batch, counts: LossCounts
) -> tuple[jax.Array, Metrics]:
    """Return the heads' CTC as a sum, and metrics."""
    losses = {name: gloss_loss(x_BxTxG, mask_BxT, batch, counts) for name, x_BxTxG in logits.items()}
    total = jnp.stack([loss for loss, _ in losses.values()]).sum()
    return total, {"loss_gloss": total / len(losses), "too_short": losses["joint"][1]["too_short"]}


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make recogniser, Gloss2Text and translators, behind the CNN's warm start if any."""
    model: TSSLTConfig = config.model
    dtype = compute_dtype(config.compute.dtype)

    def make(cls: type[TwoStreams], key: jax.Array) -> TwoStreams:
        return cls(config, inputs, dtype=dtype, rngs=nnx.Rngs(key))

    def make_writer(key: jax.Array) -> GlossToText:
        sizes = inputs.vocab_size, inputs.glosses().size
        return GlossToText(model.mbart, *sizes, dtype=dtype, rngs=nnx.Rngs(key))

    def recognition(model: TwoStreams, batch: Batch) -> tuple[jax.Array, jax.Array]:
        logits, _, streams = model.read(batch, config, None, None)
        return log_ensemble(logits), streams.mask

    def encode(model: TwoStreamTranslator, batch: Batch) -> list[EncodedModel]:
        logits, features, streams = model.read(batch, config, None, None)
        states = model.states(logits, features, batch, streams.mask, None)
        return [encoded(model.writers[name], *states[name]) for name in HEADS]

    warm = bool(config.warm_start.epochs and model.visual == "cnn" and not config.data.features)
    recognize = Stage(
        "recognize",
        partial(make, TwoStreamRecognizer),
        partial(recognize_loss, config=config),
        reads_question=False,
        reads_gloss=True,
        shared=True,
        starts_pretrained=True,
        modules=CNN_MODULES if warm else {},
        selection=WER,
        recognition=recognition,
        remat=config.compute.remat,
    )
    of_writers = {f"writers.{head}.{part}": part for head in HEADS for part in _OF_WRITER}
    of_mappers = {f"writers.{head}.mapper.kernel": "gloss_embedding.embedding" for head in HEADS}
    translate = Stage(
        "translate",
        partial(make, TwoStreamTranslator),
        partial(translate_loss, config=config),
        reads_question=False,
        reads_gloss=True,
        modules=of_writers | (of_mappers if model.mapper == "embedding" else {}),
        other_modules={"recognize": {"video": "video", "heads": "heads"}},
        translation=Translation(encode, language_prompt),
        recognition=recognition,
        ask=ask_fewer_words(config.translate.drop_words),
        remat=config.compute.remat,
    )
    stages = [recognize, gloss2text_stage(config, inputs, make_writer), translate]
    stages = stages[: STAGES.index(config.stage) + 1]
    return [warm_start_stage(config, model.cnn, inputs), *stages] if warm else stages


def check(config: Config) -> None:
    """Raise ConfigError for settings that exclude each other."""
    model: TSSLTConfig = config.model
    if model.visual == "cnn":
        check_cnn_start(config)
    require(
        config.data.image_size % 2 == 0,
        f"config.data.image_size is {config.data.image_size}; heat maps have half of it, so it must be even",
    )
    require(
        config.stage in STAGES,
        f"config.stage is {config.stage!r}; the system 'ts_slt' has {', '.join(STAGES)}",
    )


SYSTEM = System(TSSLTConfig, make_stages, check, reads=("frames", "keypoints", "features"), feature_sets=2)
