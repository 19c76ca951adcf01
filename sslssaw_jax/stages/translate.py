"""Stage 2 (Sec. 3.3): L = L_D + L_S (Eq. 7), and translation by beam search."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.models.beam_search import Member, beam_search
from sslssaw_jax.models.decoder_inputs import joint_stream, shift_right, text_stream
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.translator import Encoded, Translator
from sslssaw_jax.stages.alignment import aligned_cosine, words_cosine
from sslssaw_jax.stages.losses import cross_entropy, masked_mean, similarity_loss
from sslssaw_jax.stages.step import OWN, Counts, Stage
from sslssaw_jax.types import Batch, Metrics


def translate_stage(config: Config, vocab_size: int, bert_vocab_size: int = 0) -> Stage:
    """Translation with SSAW fusion and question self-supervision, or the ablation that `config` names."""

    def make_model(key: jax.Array) -> nnx.Module:
        dtype = compute_dtype(config.model.compute_dtype)
        sizes = (vocab_size, bert_vocab_size)
        return Translator(config.model, config.data, *sizes, dtype=dtype, rngs=nnx.Rngs(key))

    return Stage("translate", make_model, partial(loss, config=config), config.model.remat == "blocks")


def encode(
    model: Translator,
    batch: Batch,
    config: Config,
    augment_key: jax.Array | None = None,
    rngs: nnx.Rngs | None = None,
) -> Encoded:
    """Frames and question through embeddings, fusion and encoder."""
    video = None
    if model.reads_sign:
        frames_NxHxWx3, frame_mask_N = prepare_frames(batch, config.data, augment_key)
        video = model.video(frames_NxHxWx3, frame_mask_N, batch.frame_start, batch.frame_count, batch.valid)
    texts = batch.text_tower_texts
    return model.encode(texts.question, texts.question_mask, video, rngs=rngs)


def loss(
    model: Translator, batch: Batch, key: jax.Array | None, counts: Counts = OWN, *, config: Config
) -> tuple[jax.Array, Metrics]:
    """L_S (Eq. 6), and with self-supervision L_D (Eq. 5); each a mean over its own tokens.

    With `similarity_weight` a loss that keeps clips as alike as their sentences (GASLT, Yin et al. 2023).
    """
    augment_key, dropout_key = (None, None) if key is None else jax.random.split(key)
    rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
    encoded = encode(model, batch, config, augment_key, rngs)
    texts = batch.decoder_texts
    question = text_stream(texts.question, texts.question_mask)
    target = text_stream(texts.target, texts.target_mask)
    question_logits = None
    if config.model.ssl == "prefix":
        logits = model.decode(joint_stream(question, target), encoded, rngs=rngs)
        question_logits, target_logits = jnp.split(logits, [question.tokens.shape[1]], axis=1)
    else:
        target_logits = model.decode(target, encoded, rngs=rngs)
        if config.model.ssl == "separate":
            question_logits = model.decode(question, encoded, rngs=rngs)
    smoothing, count = config.translate.label_smoothing, counts.target_tokens
    total = l_s = cross_entropy(target_logits, target.labels, target.scored, smoothing, count)
    accuracy = masked_mean(target_logits.argmax(axis=-1) == target.labels, target.scored, count)
    metrics = {"loss_sentence": l_s, "accuracy": accuracy}
    if question_logits is not None:
        l_d = cross_entropy(question_logits, question.labels, question.scored, count=counts.question_tokens)
        total, metrics["loss_question"] = total + l_d, l_d
    if config.translate.similarity_weight:
        words_BxB = words_cosine(texts.target, texts.target_mask)
        l_sim = similarity_loss(_clips_cosine(encoded), words_BxB, batch.valid, counts.clips)
        total, metrics["loss_similarity"] = total + config.translate.similarity_weight * l_sim, l_sim
    return total, metrics


def _clips_cosine(encoded: Encoded) -> jax.Array:
    """Cosine of the mean states of each two clips, f32[B, B]; that of their sums is the same."""
    sum_Bx1xD = (encoded.states * encoded.mask[..., None]).sum(axis=1, keepdims=True)
    pooled = (sum_Bx1xD, encoded.mask.any(axis=1, keepdims=True))
    return aligned_cosine(*pooled, *pooled)


class Translation(NamedTuple):
    """What beam search found, and the fusion's weights for the heat map."""

    tokens: jax.Array  # i32[B, max_new_tokens], padded behind </s>
    score: jax.Array  # f32[B], log-probability over length ** length_penalty
    gate: jax.Array  # f32[B, T]: the question's tokens, then the video's positions
    mask: jax.Array  # bool[B, T]


def translate_step(
    params: nnx.State | tuple[nnx.State, ...],
    batch_stats: nnx.State | tuple[nnx.State, ...],
    batch: Batch,
    *,
    graphdef: nnx.GraphDef,
    config: Config,
    language_id: int,
    eos_id: int,
    pad_id: int,
) -> Translation:
    """The best sentence of each clip; with SSL `prefix` the known question is prefilled into the cache.

    Tuples of parameters and statistics are those of an ensemble; its gate is the mean of its members'.
    """
    members, gates = [], []
    alone = not isinstance(params, tuple)
    for state in [(params, batch_stats)] if alone else zip(params, batch_stats, strict=True):
        model = nnx.merge(graphdef, *state)
        encoded = encode(model, batch, config)
        logits = partial(model.logits, encoded=encoded)
        members.append(Member(model.decoder, model.embedding, logits, encoded.states, encoded.mask))
        gates.append(encoded.gate)
    prompt = jnp.full((len(batch.valid), 1), language_id, jnp.int32)
    prompt_mask = batch.valid[:, None]
    if config.model.ssl == "prefix":
        texts = batch.decoder_texts
        question = shift_right(texts.question, texts.question_mask)
        prompt = jnp.concatenate([question, prompt], axis=1)
        prompt_mask = jnp.concatenate([texts.question_mask, prompt_mask], axis=1)
    tokens, score = beam_search(
        members,
        prompt,
        prompt_mask,
        beams=config.decode.beams,
        max_new_tokens=config.decode.max_new_tokens,
        length_penalty=config.decode.length_penalty,
        eos_id=eos_id,
        pad_id=pad_id,
    )
    return Translation(tokens, score, jnp.stack(gates).mean(axis=0), members[0].encoder_mask)
