"""MMTLB, the baseline of multi-modality transfer learning (Chen et al. 2022), in three stages.

Sign2Gloss learns to recognise glosses by CTC, Gloss2Text to write a sentence from true glosses, and Sign2Text
joins the two by a mapper. Training needs glosses; a question is never read. Sizes and recipe are those of the
public code (FangyunWei/SLRT). That code also changes a training clip's length by a random factor of
0.5 to 1.5, and draws one colour change for a batch; here a clip keeps its length, and colours are drawn for
each clip. Sign2Text reads frames through the frozen recogniser without augmentation, while that code reads
the frames' features.

B clips, T positions in time, C features of a position, G glosses with the blank.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import NON_NEGATIVE, group, positive, setting
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.gloss_head import GLOSS_HEADS, GlossHeadConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart_writer import MBartWriter, MBartWriterConfig, make_mapper, map_head
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.s3d import S3DConfig, S3DEmbedding
from sslssaw_jax.models.video_embedding import FrameFeatures, VideoEmbedding
from sslssaw_jax.stages.gloss2text import encoded, sentence_loss
from sslssaw_jax.stages.recognition import RECOGNIZER_MODULES, gloss_logits, gloss_loss, recognize_stage
from sslssaw_jax.stages.sign2text import STAGES, check_sign2text, sign2text_chain, sign2text_stage
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System
from sslssaw_jax.stages.video import embed_video, split_key, video_input
from sslssaw_jax.types import Batch, Metrics


@dataclass(frozen=True)
class MMTLBConfig:
    """The published sizes."""

    # what turns frames into positions: S3D, or a CNN of frames and two convolutions over time
    visual: Literal["s3d", "cnn"] = "s3d"
    s3d: S3DConfig = group(S3DConfig)
    cnn: CNNConfig = group(CNNConfig)
    cnn_width: int = positive(512)  # features of a position, after the CNN
    gloss_head: GlossHeadConfig = group(GlossHeadConfig)
    # what mBART gets from the recogniser: its features, or its gloss probabilities
    mapper: Literal["projection", "embedding"] = setting("projection", stages=("translate",))
    mbart: MBartWriterConfig = group(MBartWriterConfig, stages=("gloss2text", "translate"))
    ctc_weight: float = setting(1.0, NON_NEGATIVE, stages=("translate",))


class SignToText(MBartWriter):
    """A recogniser whose gloss features or probabilities mBART reads."""

    def __init__(self, config: Config, inputs: StageInputs, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        model: MMTLBConfig = config.model
        super().__init__(model.mbart, inputs.vocab_size, dtype=dtype, rngs=rngs)
        self.video = make_video(config, inputs, rngs)
        head, width, num_glosses = model.gloss_head, video_width(config, inputs), inputs.glosses().size
        self.head = GLOSS_HEADS[head.kind](head, width, num_glosses, dtype=dtype, rngs=rngs)
        sizes = head.feature_width(width), num_glosses, model.mbart.d_model
        self.mapper = make_mapper(model.mapper, *sizes, dtype=dtype, rngs=rngs)

    def read_video(
        self, video_BxTxC: jax.Array, mask_BxT: jax.Array, valid_B: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the encoder's states, their mask, and gloss logits [B, T, G]."""
        logits_BxTxG, feature_BxTxD = self.head(video_BxTxC, mask_BxT, rngs)
        mapped_BxTxD = map_head(self.mapper, logits_BxTxG, feature_BxTxD)
        return *self.read(mapped_BxTxD, mask_BxT, valid_B, rngs), logits_BxTxG


def make_video(
    config: Config, inputs: StageInputs, rngs: nnx.Rngs
) -> S3DEmbedding | FrameFeatures | VideoEmbedding:
    """Make the module that turns frames, or features instead, into positions."""
    model: MMTLBConfig = config.model
    reads, dtype = video_input(config, inputs), compute_dtype(config.compute.dtype)
    if model.visual == "cnn":
        return VideoEmbedding(model.cnn, model.cnn_width, reads, dtype=dtype, rngs=rngs)
    if config.data.features:  # S3D's features: a row is a position
        return FrameFeatures(model.cnn, reads, dtype=dtype, rngs=rngs)
    return S3DEmbedding(model.s3d, max_frames=config.data.max_frames, dtype=dtype, rngs=rngs)


def video_width(config: Config, inputs: StageInputs) -> int:
    """Return the number of features of a position."""
    if config.model.visual == "cnn":
        return config.model.cnn_width
    # without a dataset, stages are only planned, and no model is made
    return sum(one.width for one in inputs.features) if config.data.features else config.model.s3d.features


def translate_loss(
    model: SignToText,
    batch: Batch,
    key: jax.Array | None,
    counts: LossCounts,
    *,
    config: Config,
) -> tuple[jax.Array, Metrics]:
    """Return the loss of sentences and glosses, with its parts."""
    _, rngs = split_key(key)
    video_BxTxC, video_mask_BxT = embed_video(model.video, batch, config.data, None)
    states, mask, logits_BxTxG = model.read_video(video_BxTxC, video_mask_BxT, batch.valid, rngs)
    total, metrics = sentence_loss(model, states, mask, batch, counts, config.translate, rngs)
    glosses, parts = gloss_loss(logits_BxTxG, video_mask_BxT, batch, counts)
    return total + config.model.ctc_weight * glosses, metrics | parts


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make Sign2Gloss, Gloss2Text and Sign2Text, after the CNN's warm start if any."""
    model: MMTLBConfig = config.model
    dtype = compute_dtype(config.compute.dtype)

    def encode(model: SignToText, batch: Batch) -> EncodedModel:
        video = embed_video(model.video, batch, config.data, None)
        return encoded(model, *model.read_video(*video, batch.valid, None)[:2])

    recognize = recognize_stage(
        config,
        inputs,
        model.gloss_head,
        partial(make_video, config, inputs),
        video_width(config, inputs),
        shared=True,
    )
    translate = sign2text_stage(
        config,
        lambda key: SignToText(config, inputs, dtype=dtype, rngs=Keys(key)),
        partial(translate_loss, config=config),
        encode,
        partial(gloss_logits, data=config.data),
        recognizer={**RECOGNIZER_MODULES, "head": "head"},
    )
    return sign2text_chain(config, inputs, recognize, translate)


SYSTEM = System(MMTLBConfig, make_stages, check_sign2text, STAGES, reads=("frames", "features"))
