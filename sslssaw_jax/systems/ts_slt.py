"""TS-SLT (Chen et al. 2022), a two-stream recogniser with three translators; it reads no question.

One stream reads frames, the other keypoints as heat maps. The recogniser has a head on each stream and one on
both, which learn glosses by CTC and from each other: the mean of the three heads' probabilities teaches each
of them. Gloss2Text learns to write a sentence from true glosses. Three translators then read the gloss
features of one head each, and write together: in decoding, their probabilities are averaged. Prepared
features of both streams may take the place of frames and keypoints.

Sizes, losses and recipe come from the public code (FangyunWei/SLRT). These points are a reconstruction: both
streams are trained at once, from the Kinetics weights, while the public code trains each alone first; the
three translators are one model on one recogniser, trained by one command, while the public code trains three;
a heat map is drawn in the network's own pixels, while the public code draws it in the picture's pixels and
resizes it. Padding is left out of the distillation. Augmentation is the same as in the other rows, and the
translators read without it. The small sizes have a CNN for frames and one for heat maps in place of the two
S3Ds, without exchange or pyramids.

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
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.gloss_head import GLOSS_HEADS, GlossHeadConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart_writer import MBartWriter, MBartWriterConfig, make_mapper, map_head
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.s3d import S3DConfig
from sslssaw_jax.models.two_stream import Streams
from sslssaw_jax.stages.distillation import distillation_loss, log_ensemble
from sslssaw_jax.stages.gloss2text import encoded, sentence_loss
from sslssaw_jax.stages.recognition import gloss_loss
from sslssaw_jax.stages.sign2text import (
    STAGES,
    check_sign2text,
    sign2text_chain,
    sign2text_stage,
    starts_warm,
)
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System
from sslssaw_jax.stages.streams import make_streams, read_streams
from sslssaw_jax.stages.video import split_key
from sslssaw_jax.stages.warm_start import CNN_MODULES
from sslssaw_jax.types import WER, Batch, Metrics

HEADS = ("video", "keypoints", "joint")


@dataclass(frozen=True)
class TSSLTConfig:
    """The published sizes."""

    # what turns frames and heat maps into positions: two S3Ds, or two CNNs and convolutions over time
    visual: Literal["s3d", "cnn"] = "s3d"
    s3d: S3DConfig = group(S3DConfig)
    cnn: CNNConfig = group(CNNConfig)
    cnn_width: int = positive(512)  # features of a position, after a CNN
    sigma: float = positive(8.0)  # of a spot, in pixels of `raster`
    raster: tuple[int, ...] = (260, 210)  # height and width of the picture that `sigma` measures
    gloss_head: GlossHeadConfig = group(GlossHeadConfig)
    mapper: Literal["projection", "embedding"] = setting("projection", stages=("translate",))
    mbart: MBartWriterConfig = group(MBartWriterConfig, stages=("gloss2text", "translate"))
    # of the heads on the pyramids, and of the distillation among the three heads
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
        self.video = make_streams(config, inputs, dtype, rngs)
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
    """Two streams that learn glosses, also with heads on the levels of their pyramids."""

    def __init__(self, config: Config, inputs: StageInputs, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(config, inputs, dtype=dtype, rngs=rngs)
        self.level_heads = nnx.List(
            [
                _make_head(config.model, width, inputs, dtype, rngs)
                for width in 2 * tuple(self.video.level_widths)  # of frames, then of keypoints
            ]
        )


class StreamWriter(MBartWriter):
    """An mBART that reads one head's output through a mapper."""

    def __init__(self, config: Config, inputs: StageInputs, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        model: TSSLTConfig = config.model
        super().__init__(model.mbart, inputs.vocab_size, dtype=dtype, rngs=rngs)
        sizes = model.gloss_head.feature_width(width), inputs.glosses().size, model.mbart.d_model
        self.mapper = make_mapper(model.mapper, *sizes, dtype=dtype, rngs=rngs)


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
            name: writer.read(
                map_head(writer.mapper, logits[name], features[name]), mask_BxT, batch.valid, rngs
            )
            for name, writer in self.writers.items()
        }


def _make_head(
    model: TSSLTConfig, width: int, inputs: StageInputs, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Module:
    head = model.gloss_head
    return GLOSS_HEADS[head.kind](head, width, inputs.glosses().size, dtype=dtype, rngs=rngs)


def recognize_loss(
    model: TwoStreamRecognizer,
    batch: Batch,
    key: jax.Array | None,
    counts: LossCounts,
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
    counts: LossCounts,
    *,
    config: Config,
) -> tuple[jax.Array, Metrics]:
    """Return the writers' and the heads' loss, with its parts."""
    _, rngs = split_key(key)
    logits, features, streams = model.read(batch, config, None, rngs)
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
    """Return the sum of the heads' CTC losses, and metrics."""
    losses = {name: gloss_loss(x_BxTxG, mask_BxT, batch, counts) for name, x_BxTxG in logits.items()}
    total = jnp.stack([loss for loss, _ in losses.values()]).sum()
    return total, {"loss_gloss": total / len(losses), "too_short": losses["joint"][1]["too_short"]}


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make recogniser, Gloss2Text and translators, after the CNN's warm start if any."""
    dtype = compute_dtype(config.compute.dtype)

    def make(cls: type[TwoStreams], key: jax.Array) -> TwoStreams:
        return cls(config, inputs, dtype=dtype, rngs=Keys(key))

    def recognition(model: TwoStreams, batch: Batch) -> tuple[jax.Array, jax.Array]:
        logits, _, streams = model.read(batch, config, None, None)
        return log_ensemble(logits), streams.mask

    def encode(model: TwoStreamTranslator, batch: Batch) -> list[EncodedModel]:
        logits, features, streams = model.read(batch, config, None, None)
        states = model.states(logits, features, batch, streams.mask, None)
        return [encoded(model.writers[name], *states[name]) for name in HEADS]

    recognize = Stage(
        "recognize",
        partial(make, TwoStreamRecognizer),
        partial(recognize_loss, config=config),
        reads_question=False,
        reads_gloss=True,
        shared=True,
        starts_pretrained=True,
        modules=CNN_MODULES if starts_warm(config) else {},
        selection=WER,
        recognition=recognition,
        remat=config.compute.remat,
    )
    translate = sign2text_stage(
        config,
        partial(make, TwoStreamTranslator),
        partial(translate_loss, config=config),
        encode,
        recognition,
        recognizer={"video": "video", "heads": "heads"},
        writers=[f"writers.{name}." for name in HEADS],
    )
    return sign2text_chain(config, inputs, recognize, translate)


def check(config: Config) -> None:
    """Raise ConfigError for settings that exclude each other."""
    check_sign2text(config)
    require(
        config.data.image_size % 2 == 0,
        f"config.data.image_size is {config.data.image_size}; heat maps have half that size, so "
        "it must be even",
    )


SYSTEM = System(
    TSSLTConfig, make_stages, check, STAGES, reads=("frames", "keypoints", "features"), feature_sets=2
)
