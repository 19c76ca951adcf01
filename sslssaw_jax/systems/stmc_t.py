"""STMC-T, the spatial-temporal multi-cue network (Zhou et al. 2020, 2021): hands, face, pose and the whole.

Each frame goes through VGG-11. A branch finds seven body points in the frame, around which face and hands are
cut out of an early map. Whole frame, hands, face and points are four parts; two blocks over time keep each
part apart and join all of them. The recogniser learns glosses by CTC from the joint path and each part, and
the points from a keypoint set. The translation continues from the recogniser: its video part stays as it is
if the recipe freezes it, its LSTMs train on, and a recurrent decoder attends to all five of them. Keypoints
are read only in the recogniser's training, a question never.

The sizes of the networks come from the one public file of the paper's authors, without that file's averaging
of all five losses. Four points are a reconstruction: the weights of the losses and the recipe are from memory
of the paper; the joints of points 1 to 4 are inferred (shoulders and elbows); the width of the LSTMs is that
of both directions together, since their class is not public; no code of the translation is public, so its
decoder is ours (NSLT's with an attention for each stream, whose contexts are joined by a linear map), and so
is its loss, which still includes the glosses'. The first and the last frame of a clip are repeated as in
every row, so that T frames have T/4 + 1 positions, not (T - 12)/4, and even the shortest clip has some. Crops
begin a pixel of the map further up and left than in the public file. The paper drops a fifth of a training
clip's frames; here all are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sslssaw_jax.config.checks import NON_NEGATIVE, POSITIVE, fraction, group, require, setting
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import clip_of_frame, prepare_frames, prepare_keypoints
from sslssaw_jax.data.keypoints import AVATAR, columns_of
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.gloss_head import GLOSS_HEADS, GlossHeadConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.multi_cue import PARTS, POINTS, Cues, MultiCueConfig, MultiCueEmbedding
from sslssaw_jax.models.precision import Embed, FloatLinear, compute_dtype
from sslssaw_jax.models.recurrent import RecurrentConfig, StreamsDecoder
from sslssaw_jax.stages.losses import masked_mean
from sslssaw_jax.stages.one_stage import one_stage
from sslssaw_jax.stages.recognition import RECOGNIZER_MODULES, gloss_loss
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System
from sslssaw_jax.stages.video import split_key, video_input
from sslssaw_jax.stages.warm_start import CNN_MODULES, check_cnn_start, warm_start_stages
from sslssaw_jax.types import WER, Batch, Metrics

Features = Sequence[jax.Array]  # for the joint path and each part, [B, T, C]


@dataclass(frozen=True)
class STMCTConfig:
    """The published sizes; the decoder's are NSLT's."""

    cnn: CNNConfig = group(partial(CNNConfig, kind="vgg"))
    cues: MultiCueConfig = group(MultiCueConfig)
    joint_head: GlossHeadConfig = group(partial(GlossHeadConfig, kind="bilstm", d_model=1024))
    part_head: GlossHeadConfig = group(partial(GlossHeadConfig, kind="bilstm", d_model=256))
    part_weight: float = setting(0.6, NON_NEGATIVE)  # of the mean of the parts' gloss losses
    pose_weight: float = setting(30.0, NON_NEGATIVE, stages=("recognize",))
    ctc_weight: float = setting(1.0, NON_NEGATIVE, stages=("translate",))  # of CTC in translation
    embedding: int = setting(1000, POSITIVE, stages=("translate",))
    decoder_units: int = setting(1000, POSITIVE, stages=("translate",))
    decoder_layers: int = setting(1, POSITIVE, stages=("translate",))
    dropout: float = fraction(0.2)  # of the decoder


class CueRecognizer(nnx.Module):
    """A multi-cue video part with a gloss head for the joint path and each part."""

    def __init__(self, config: Config, inputs: StageInputs, *, rngs: nnx.Rngs):
        model, dtype = config.model, compute_dtype(config.compute.dtype)
        self.video = MultiCueEmbedding(
            model.cnn.vgg,
            model.cues,
            video_input(config, inputs),
            dtype=dtype,
            rngs=rngs,
        )
        num_glosses = inputs.glosses().size
        self.heads = nnx.List(
            [
                GLOSS_HEADS[head.kind](head, width, num_glosses, dtype=dtype, rngs=rngs)
                for head, width in _heads(model)
            ]
        )

    def look(self, batch: Batch, config: Config, key: jax.Array | None, rngs: nnx.Rngs | None) -> Cues:
        """Return the cues of a batch's frames; a key augments them."""
        frames_NxHxWx3, _ = prepare_frames(batch, config.data, key)
        return self.video(frames_NxHxWx3, batch.packed_clips, rngs=rngs)

    def features(self, cues: Cues, rngs: nnx.Rngs | None) -> tuple[jax.Array, ...]:
        """Return the heads' features, for the joint path and each part."""
        pairs = zip(self.heads, cues.streams, strict=True)
        return tuple(head(stream_BxTxC, cues.mask, rngs)[1] for head, stream_BxTxC in pairs)

    def gloss_logits(self, features: Features) -> list[jax.Array]:
        """Return logits f32[B, T, G] for the joint path and each part."""
        return [head.output(x).astype(jnp.float32) for head, x in zip(self.heads, features, strict=True)]


class STMCT(CueRecognizer):
    """The recogniser with a decoder that attends to the features of its heads."""

    def __init__(self, config: Config, inputs: StageInputs, *, rngs: nnx.Rngs):
        super().__init__(config, inputs, rngs=rngs)
        model, dtype = config.model, compute_dtype(config.compute.dtype)
        sizes = RecurrentConfig(model.decoder_units, model.decoder_layers, "lstm", dropout=model.dropout)
        streams = [head.feature_width(width) for head, width in _heads(model)]
        init = nnx.initializers.glorot_normal()
        self.embed_target = Embed(
            inputs.vocab_size, model.embedding, embedding_init=init, dtype=dtype, rngs=rngs
        )
        self.decoder = StreamsDecoder(model.embedding, sizes, streams, dtype=dtype, rngs=rngs)
        self.output = FloatLinear(
            model.decoder_units, inputs.vocab_size, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs
        )

    def decode(
        self, stream: Stream, features: Features, mask_BxT: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits `[B,L,V]` at each position from the positions before it."""
        embedded = self.embed_target(stream.tokens)
        return self.logits(self.decoder(embedded, stream.mask, features, mask_BxT, rngs))

    def logits(self, hidden_BxLxU: jax.Array) -> jax.Array:
        """Return logits of the next token, f32[B, L, V]."""
        return self.output(hidden_BxLxU).astype(jnp.float32)


def _heads(model: STMCTConfig) -> list[tuple[GlossHeadConfig, int]]:
    """Return each head's sizes and the width of what it reads."""
    parts = [(model.part_head, model.cues.width)] * len(PARTS)
    return [(model.joint_head, model.cues.joint_width), *parts]


def cue_loss(
    model: CueRecognizer,
    features: Features,
    mask_BxT: jax.Array,
    batch: Batch,
    counts: LossCounts,
    part_weight: float,
) -> tuple[jax.Array, Metrics]:
    """Return the joint path's gloss loss plus the parts' weighted mean."""
    joint, *parts = model.gloss_logits(features)
    loss, metrics = gloss_loss(joint, mask_BxT, batch, counts)
    of_parts = jnp.stack([gloss_loss(part, mask_BxT, batch, counts)[0] for part in parts]).mean()
    return loss + part_weight * of_parts, metrics | {"loss_parts": of_parts}


def pose_loss(
    points_NxKx2: jax.Array, wanted_NxKx3: jax.Array, mask_N: jax.Array, frames: jax.Array
) -> jax.Array:
    """Return the smooth L1 distance of points, a mean over frames.

    A wanted point outside the frame, or with the score 0, counts as found.

    Args:
        points_NxKx2: The points found.
        wanted_NxKx3: Place and score, as `prepare_keypoints` returns them.
        mask_N: Whether a frame belongs to a clip.
        frames: The number of frames in all micro-batches of a step.
    """
    places, score_NxK = wanted_NxKx3[..., :2], wanted_NxKx3[..., 2]
    counts_NxK = (score_NxK > 0) & ((places >= 0) & (places <= 1)).all(axis=-1)
    distance_NxKx2 = optax.huber_loss(points_NxKx2, places)
    distance_N = jnp.where(counts_NxK[..., None], distance_NxKx2, 0).mean(axis=(1, 2))
    return masked_mean(distance_N, mask_N, frames)


def recognize_stage(config: Config, inputs: StageInputs) -> Stage:
    """Make the stage that learns glosses and points.

    Raises:
        ConfigError: There is no keypoint set, or it lacks a point.
    """
    model_config: STMCTConfig = config.model
    data = config.data
    command = f"python -m tfds_builders.features --format=keypoints --name=NAME --data_dir={data.data_dir}"
    name, how = (
        "NAME",
        f" (`{command} --dataset={data.dataset} FILES` imports it)",
    )
    if data.dataset == "avatar_qa":
        name, how = AVATAR, ""  # it comes with the frames
    require(
        bool(config.data.keypoints) or not model_config.pose_weight,
        f"config.data.keypoints is None and config.model.pose_weight {model_config.pose_weight}: the places "
        "of hands and face are learnt from a keypoint set; name one with "
        f"--config.data.keypoints={name}{how}, or set --config.model.pose_weight=0, but then hands and face "
        "are cut out anywhere",
    )
    # without a dataset, stages are only planned, and nothing is trained
    columns = columns_of(inputs.keypoints, POINTS) if inputs.keypoints else []

    def loss(
        model: CueRecognizer, batch: Batch, key: jax.Array | None, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        augment_key, rngs = split_key(key)
        cues = model.look(batch, config, augment_key, rngs)
        features = model.features(cues, rngs)
        total, metrics = cue_loss(model, features, cues.mask, batch, counts, model_config.part_weight)
        if not model_config.pose_weight:
            return total, metrics
        wanted_NxKx3 = prepare_keypoints(batch, config.data, augment_key)[:, jnp.array(columns)]
        pose = pose_loss(cues.points, wanted_NxKx3, clip_of_frame(batch)[1], counts.frames)
        return total + model_config.pose_weight * pose, metrics | {"loss_pose": pose}

    def recognition(model: CueRecognizer, batch: Batch) -> tuple[jax.Array, jax.Array]:
        cues = model.look(batch, config, None, None)
        return model.gloss_logits(model.features(cues, None))[0], cues.mask

    return Stage(
        "recognize",
        lambda key: CueRecognizer(config, inputs, rngs=Keys(key)),
        loss,
        reads_question=False,
        reads_gloss=True,
        shared=True,
        starts_pretrained=True,
        modules=CNN_MODULES,
        selection=WER,
        recognition=recognition,
        remat=config.compute.remat,
    )


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make recogniser and translation, after VGG-11's warm start if any."""
    early = [*warm_start_stages(config, inputs), recognize_stage(config, inputs)]
    if config.stage == "recognize":
        return early

    def read(
        model: STMCT, batch: Batch, augment_key: jax.Array | None, rngs: nnx.Rngs | None
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        cues = model.look(batch, config, augment_key, rngs)
        return model.features(cues, rngs), cues.mask

    def added_loss(
        model: STMCT, features: Features, mask_BxT: jax.Array, batch: Batch, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        glosses, metrics = cue_loss(model, features, mask_BxT, batch, counts, config.model.part_weight)
        return config.model.ctc_weight * glosses, metrics

    def recognition(model: STMCT, batch: Batch) -> tuple[jax.Array, jax.Array]:
        features, mask_BxT = read(model, batch, None, None)
        return model.gloss_logits(features)[0], mask_BxT

    *_, translate = one_stage(
        config,
        inputs,
        lambda key: STMCT(config, inputs, rngs=Keys(key)),
        read,
        added_loss=added_loss,
        recognition=recognition,
        early=early,
    )
    return [*early, replace(translate, modules=RECOGNIZER_MODULES | {"heads": "heads"})]


def check(config: Config) -> None:
    """Raise ConfigError for settings that do not fit STMC-T."""
    check_cnn_start(config)
    model: STMCTConfig = config.model
    require(
        model.cnn.kind == "vgg",
        f"config.model.cnn.kind is {model.cnn.kind!r}; the system 'stmc_t' cuts hands and face out of the "
        "maps of a VGG: set it to 'vgg'",
    )
    side = config.data.image_size // 4
    for name in ("hand_side", "face_side"):
        value = getattr(model.cues, name)
        require(
            value <= side,
            f"config.model.cues.{name} is {value}; the map of frames of {config.data.image_size} pixels is "
            f"{side} wide: lower {name}, or raise config.data.image_size",
        )


SYSTEM = System(STMCTConfig, make_stages, check, ("recognize", "translate"), learns_keypoints=True)
