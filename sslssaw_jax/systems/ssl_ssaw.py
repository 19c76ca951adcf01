"""SSL-SSAW, the paper's system: shared feature space, SSAW fusion, question self-supervision.

Stage 1 (Sec. 3.2), in `stages/pretrain.py`, brings a video tower and a text tower into one feature space and
restores masked words. Stage 2 (Sec. 3.3) fuses question and video and translates. QB-GFSLT-VLP
is the row without SSAW and SSL; GFSLT-VLP also lacks the question.

B clips, T positions in time, L tokens, D features, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import NON_NEGATIVE, group, require, require_divisor, setting
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.decoder_inputs import Stream, joint_stream, text_stream
from sslssaw_jax.models.fusion import FUSIONS, Convolution, FusionConfig, concatenate_valid
from sslssaw_jax.models.gloss_head import GlossHeadConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart import MBartConfig, TokenEmbedding
from sslssaw_jax.models.mbert import MBert, MBertConfig
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.transformer import Decoder, Encoder, SinusoidalPositions
from sslssaw_jax.models.video_embedding import num_positions
from sslssaw_jax.stages.pretrain import Alignment, pretrain_stage
from sslssaw_jax.stages.recognition import early_modules, early_stages
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System, Translation
from sslssaw_jax.stages.translation import ask_fewer_words, language_prompt, question_prompt
from sslssaw_jax.stages.video import embed_video, split_key, video_embedding
from sslssaw_jax.stages.warm_start import check_cnn_start
from sslssaw_jax.types import Batch, Metrics

PRETRAIN_MODULES = {  # stage 2 <- stage 1
    "embedding": "embedding",
    "text_encoder": "text_encoder",  # if mBERT; with mBART the question embedding is the bare embedding
    "video": "video",
    "encoder": "video_encoder",
    "decoder": "decoder",
}


@dataclass(frozen=True)
class SSLSSAWConfig:
    """The model of both stages, and the paper's ablations of it."""

    cnn: CNNConfig = group(CNNConfig)
    # reads sentences in stage 1 and questions in stage 2 (Table 6)
    text_encoder: Literal["mbart", "mbert"] = "mbart"
    mbart: MBartConfig = group(MBartConfig)
    mbert: MBertConfig = group(MBertConfig)
    alignment: Alignment = "pooled"
    gloss_head: GlossHeadConfig = group(GlossHeadConfig, stages=("recognize",))  # of the stage `recognize`
    fusion: FusionConfig = group(FusionConfig, stages=("translate",))  # Table 5
    inputs: Literal["question", "video", "both"] = setting("both", stages=("translate",))  # Table 7
    ssl: Literal["prefix", "separate", "off"] = setting("prefix", stages=("translate",))  # Eq. 5-7
    ssl_weight: float = setting(1.0, NON_NEGATIVE, stages=("translate",))  # of the question's loss in Eq. 7

    def __post_init__(self) -> None:
        require_divisor("fusion.heads", self.fusion.heads, self.mbart.d_model)
        require(
            self.inputs != "video" or self.ssl == "off",
            "inputs is 'video', which reads no question: set ssl to 'off'",
        )


class Encoded(NamedTuple):
    """The states that the decoder attends to, and the fusion's weight of each position."""

    states: jax.Array  # [B, T, D]
    mask: jax.Array  # bool[B, T]
    gate: jax.Array | None  # f32[B, T]; None for a fusion without a gate


class TranslationModel(nnx.Module):
    """A model of stage 2: question and video fused, and an mBART encoder-decoder."""

    def __init__(self, config: Config, inputs: StageInputs, *, rngs: nnx.Rngs):
        model: SSLSSAWConfig = config.model
        mbart, dtype = model.mbart, compute_dtype(config.compute.dtype)
        d_model = mbart.d_model
        self.reads_question, self.reads_video = model.inputs != "video", model.inputs != "question"
        self.embedding = TokenEmbedding(
            inputs.vocab_size, d_model, tied_head=mbart.tied_head, dtype=dtype, rngs=rngs
        )
        self.embeds_with_mbert = self.reads_question and model.text_encoder == "mbert"
        if self.embeds_with_mbert:
            bert_size = inputs.text_tower_vocab_size
            self.text_encoder = MBert(model.mbert, bert_size, d_model, dtype=dtype, rngs=rngs)
        if self.reads_video:
            self.video = video_embedding(config, inputs, d_model, rngs)
        self.order = SinusoidalPositions(mbart, 0.0, rngs=rngs) if model.fusion.positions else None
        mixes = model.fusion.convolution
        self.mixing = Convolution(d_model, model.fusion, dtype=dtype, rngs=rngs) if mixes else None
        self.fusion = FUSIONS[model.fusion.kind](d_model, model.fusion, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(mbart.video_layers, mbart.video_heads, mbart, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(mbart.decoder_layers, mbart.decoder_heads, mbart, dtype=dtype, rngs=rngs)

    def join(
        self,
        question_BxL: jax.Array,
        question_mask_BxL: jax.Array,
        video: tuple[jax.Array, jax.Array] | None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Join what is read into one sequence (`f_c`), with its mask."""
        parts = [video] if video else []
        if self.reads_question:
            embedded_BxLxD = (
                self.text_encoder(question_BxL, question_mask_BxL, rngs)
                if self.embeds_with_mbert
                else self.embedding(question_BxL)
            )
            parts.insert(0, (embedded_BxLxD, question_mask_BxL))
        joint_BxTxD, mask_BxT = parts[0] if len(parts) == 1 else concatenate_valid(*parts[0], *parts[1])
        if self.order is not None:
            positions_BxT = jnp.cumsum(mask_BxT, axis=1) - 1
            ordered_BxTxD = self.order(joint_BxTxD, positions_BxT, rngs).astype(joint_BxTxD.dtype)
            joint_BxTxD = ordered_BxTxD * mask_BxT[..., None]
        if self.mixing is not None:
            joint_BxTxD, _ = self.mixing(joint_BxTxD, mask_BxT, rngs)
        return joint_BxTxD, mask_BxT

    def encode(self, joint_BxTxD: jax.Array, mask_BxT: jax.Array, *, rngs: nnx.Rngs | None = None) -> Encoded:
        """Encode the joint sequence through fusion and encoder."""
        fused_BxTxD, gate_BxT = self.fusion(joint_BxTxD, mask_BxT, rngs)
        return Encoded(self.encoder(fused_BxTxD, mask_BxT, rngs), mask_BxT, gate_BxT)

    def decode(self, stream: Stream, encoded: Encoded, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return logits `[B,L,V]` at each position from the positions before it."""
        embedded = self.embedding(stream.tokens)
        hidden = self.decoder(embedded, stream.mask, encoded.states, encoded.mask, rngs)
        return self.embedding.logits(hidden)


def join_batch(
    model: TranslationModel,
    batch: Batch,
    config: Config,
    augment_key: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return a batch's questions and frames as joint sequences and their mask."""
    video = embed_video(model.video, batch, config.data, augment_key) if model.reads_video else None
    tower = batch.text_tower_texts
    return model.join(tower.question, tower.question_mask, video, rngs=rngs)


def encode_batch(
    model: TranslationModel,
    batch: Batch,
    config: Config,
    augment_key: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
) -> Encoded:
    """Encode a batch's frames and questions."""
    return model.encode(*join_batch(model, batch, config, augment_key, rngs), rngs=rngs)


def translate_loss(
    model: TranslationModel,
    batch: Batch,
    key: jax.Array | None,
    counts: LossCounts,
    *,
    config: Config,
) -> tuple[jax.Array, Metrics]:
    """Return `L = L_D + L_S` (Eq. 7), or `L_S` without SSL."""
    augment_key, rngs = split_key(key)
    encoded = encode_batch(model, batch, config, augment_key, rngs)
    texts = batch.decoder_texts
    question = text_stream(texts.question, texts.question_mask)
    target = text_stream(texts.target, texts.target_mask)
    asked = None
    if config.model.ssl == "prefix":
        logits = model.decode(joint_stream(question, target), encoded, rngs=rngs)
        question_logits, target_logits = jnp.split(logits, [question.tokens.shape[1]], axis=1)
        asked = question, question_logits
    else:
        target_logits = model.decode(target, encoded, rngs=rngs)
        if config.model.ssl == "separate":
            asked = question, model.decode(question, encoded, rngs=rngs)
    return translation_loss(target, target_logits, counts, config.translate, asked, config.model.ssl_weight)


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make warm start, stage 1 and stage 2, where they train."""
    model: SSLSSAWConfig = config.model
    from_file = config.init_from is not None and config.init_from.endswith(".pth")  # of GFSLT-VLP
    has_pretrain = bool(config.pretrain.epochs and config.init_from) and not from_file
    make_video = partial(video_embedding, config, inputs, model.mbart.d_model)
    shared = config.stage == "translate" and not has_pretrain
    early = early_stages(config, inputs, make_video, model.mbart.d_model, shared=shared)
    modules = early_modules(early)
    mbert = (model.mbert, inputs.text_tower_vocab_size) if model.text_encoder == "mbert" else None
    pretrain = pretrain_stage(
        config, inputs, make_video, mbert=mbert, alignment=model.alignment, modules=modules
    )

    def encode(model: TranslationModel, batch: Batch) -> EncodedModel:
        states, mask, gate = encode_batch(model, batch, config)
        return EncodedModel(model.decoder, model.embedding, model.embedding.logits, states, mask, gate)

    translate = Stage(
        "translate",
        lambda key: TranslationModel(config, inputs, rngs=Keys(key)),
        partial(translate_loss, config=config),
        reads_question=model.inputs != "video",
        reads_video=model.inputs != "question",
        starts_pretrained=not (has_pretrain or from_file),
        starts_from_file=from_file,
        modules=PRETRAIN_MODULES if has_pretrain else modules,
        translation=Translation(encode, question_prompt if model.ssl == "prefix" else language_prompt),
        ask=ask_fewer_words(config.translate.drop_words),
        remat=config.compute.remat,
    )
    if config.stage == "recognize":
        return early
    if config.stage == "pretrain":
        stages = [pretrain]
    else:
        stages = [pretrain, translate] if has_pretrain else [translate]
    begins = stages[0].reads_video and not stages[0].starts_from_file
    return [*early, *stages] if begins else stages


def check(config: Config) -> None:
    """Raise ConfigError for two CNN starts or overlong sequences."""
    check_cnn_start(config)
    model: SSLSSAWConfig = config.model
    data, decode = config.data, config.decode
    longest = max(data.max_question_tokens, data.max_target_tokens)
    asked = data.max_question_tokens * (model.ssl == "prefix")  # which the decoder reads first
    needed = {
        "data.max_target_tokens": asked + data.max_target_tokens,
        "decode.max_new_tokens": asked + 1 + decode.max_new_tokens,
    }
    if model.inputs == "both" and not data.features and data.frame_stride == 1:
        needed["data.max_frames"] = data.max_question_tokens + num_positions(data.max_frames)
    for key, length in needed.items():
        require(
            config.stage != "translate" or length <= model.mbart.max_positions,
            f"config.model.mbart.max_positions is {model.mbart.max_positions}; config.{key} with "
            f"config.data.max_question_tokens={data.max_question_tokens} needs {length}: raise the first, or "
            "lower the others",
        )
    require(
        model.text_encoder != "mbert" or longest <= model.mbert.max_positions,
        f"config.model.mbert.max_positions is {model.mbert.max_positions}; texts of {longest} tokens need as "
        "many: raise it, or lower config.data.max_question_tokens and config.data.max_target_tokens",
    )


SYSTEM = System(
    SSLSSAWConfig,
    make_stages,
    check,
    ("recognize", "pretrain", "translate"),
    lambda model: model.mbert if model.text_encoder == "mbert" else None,
    reads=("frames", "features"),
)
