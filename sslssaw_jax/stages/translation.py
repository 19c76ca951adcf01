"""Translation of a batch by beam search, and scores of given sentences, the same for every system."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from sslssaw_jax.config.experiment import DecodeConfig
from sslssaw_jax.data.batches import Ask
from sslssaw_jax.data.masking import drop_words
from sslssaw_jax.models.beam_search import IMPOSSIBLE, EncodedModel, beam_search
from sslssaw_jax.models.decoder_inputs import shift_right, text_stream
from sslssaw_jax.stages.stage import Translation
from sslssaw_jax.types import Batch


def ask_fewer_words(rate: float, ask: Ask | None = None) -> Ask | None:
    """Return an `Ask` that leaves words out of questions; see `drop_words`.

    Args:
        rate: The probability that a word is left out; 0 leaves the questions as they are.
        ask: Draws the question; None takes the clip's own.
    """
    if not rate:
        return ask
    return lambda clip, rng: drop_words(ask(clip, rng) if ask else clip.question, rate, rng)


class Translated(NamedTuple):
    """The sentences that beam search found, and the fusion's gate for the heat map."""

    tokens: jax.Array  # i32[B, beams, max_new_tokens], best first, padded after </s>
    score: jax.Array  # f32[B, beams], log-probability divided by the length norm
    rank: jax.Array  # f32[B, beams], what the sentences are sorted by: the score, or the model's own rank
    gate: jax.Array | None  # f32[B, T]: the question's tokens, then the video's positions; None without SSAW
    mask: jax.Array  # bool[B, T]


def language_prompt(batch: Batch, language_id: int) -> tuple[jax.Array, jax.Array]:
    """Return `<language>` alone: what a decoder reads first."""
    return jnp.full((len(batch.valid), 1), language_id, jnp.int32), batch.valid[:, None]


def question_prompt(batch: Batch, language_id: int) -> tuple[jax.Array, jax.Array]:
    """Return the complete question, then `<language>`: the prefix of self-supervision (Eq. 6)."""
    question, mask = batch.decoder_texts.question, batch.decoder_texts.question_mask
    language, valid = language_prompt(batch, language_id)
    tokens = jnp.concatenate([shift_right(question, mask), language], axis=1)
    return tokens, jnp.concatenate([mask, valid], axis=1)


def translate_step(
    params: nnx.State | tuple[nnx.State, ...],
    batch_stats: nnx.State | tuple[nnx.State, ...],
    batch: Batch,
    *,
    graphdef: nnx.GraphDef,
    translation: Translation,
    decode: DecodeConfig,
    language_id: int,
    eos_id: int,
    pad_id: int,
) -> Translated:
    """Return the best sentences of each clip.

    Tuples of parameters and statistics mean an ensemble; its gate is the mean of the members' gates.
    """
    members = _encode(params, batch_stats, batch, graphdef, translation)
    gates = [member.gate for member in members if member.gate is not None]
    prompt, prompt_mask = translation.prompt(batch, language_id)
    tokens, score = beam_search(
        members,
        prompt,
        prompt_mask,
        beams=decode.beams,
        max_new_tokens=decode.max_new_tokens,
        length_penalty=decode.length_penalty,
        length_norm=decode.length_norm,
        eos_id=eos_id,
        pad_id=pad_id,
    )
    rank = score
    if rankers := [member.rank for member in members if member.rank]:
        text = _with_language(tokens, language_id, eos_id)
        ranks = jnp.stack([rank(*text, score) for rank in rankers]).mean(axis=0)
        ranks = jnp.where(score > IMPOSSIBLE, ranks, IMPOSSIBLE)
        rank, place = lax.top_k(ranks, decode.beams)
        tokens = jnp.take_along_axis(tokens, place[..., None], axis=1)
        score = jnp.take_along_axis(score, place, axis=1)
    gate = jnp.stack(gates).mean(axis=0) if gates else None
    return Translated(tokens, score, rank, gate, members[0].encoder_mask)


def _with_language(tokens_BxKxN: jax.Array, language_id: int, eos_id: int) -> tuple[jax.Array, jax.Array]:
    """Return sentences as `w_1 .. w_n </s> <language>`, with their mask."""
    ends_BxKxN = tokens_BxKxN == eos_id
    # one past </s>, or 0 for a beam that found nothing
    length_BxKx1 = jnp.where(ends_BxKxN.any(-1), ends_BxKxN.argmax(axis=-1) + 1, 0)[..., None]
    place = jnp.arange(tokens_BxKxN.shape[-1] + 1)
    text_BxKxL = jnp.pad(tokens_BxKxN, ((0, 0), (0, 0), (0, 1)))
    text_BxKxL = jnp.where(place == length_BxKx1, language_id, text_BxKxL)
    return text_BxKxL, (place <= length_BxKx1) & (length_BxKx1 > 0)


def sentence_step(
    params: nnx.State | tuple[nnx.State, ...],
    batch_stats: nnx.State | tuple[nnx.State, ...],
    batch: Batch,
    *,
    graphdef: nnx.GraphDef,
    translation: Translation,
    language_id: int,
) -> jax.Array:
    """Return the log-probability of each clip's target, f32[B].

    For a sentence that `translate_step` has found, it is the score times the length norm. Tuples of
    parameters and statistics mean an ensemble.
    """
    prompt, prompt_mask = translation.prompt(batch, language_id)
    target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
    # the prompt ends with the token that the target's stream begins with
    tokens = jnp.concatenate([prompt, target.tokens[:, 1:]], axis=1)
    mask = jnp.concatenate([prompt_mask, target.mask[:, 1:]], axis=1)
    labels = jnp.where(target.scored, target.labels, 0)[..., None]
    found = []
    for member in _encode(params, batch_stats, batch, graphdef, translation):
        memory = member.encoder_states, member.encoder_mask
        hidden_BxLxD = member.decoder(member.embed(tokens), mask, *memory)[:, prompt.shape[1] - 1 :]
        log_probs_BxLxV = jax.nn.log_softmax(member.logits(hidden_BxLxD).astype(jnp.float32))
        found.append(jnp.take_along_axis(log_probs_BxLxV, labels, axis=-1)[..., 0])
    log_probs_BxL = jax.nn.logsumexp(jnp.stack(found), axis=0) - math.log(len(found))
    return jnp.where(target.scored, log_probs_BxL, 0).sum(axis=1)


def _encode(
    params: nnx.State | tuple[nnx.State, ...],
    batch_stats: nnx.State | tuple[nnx.State, ...],
    batch: Batch,
    graphdef: nnx.GraphDef,
    translation: Translation,
) -> list[EncodedModel]:
    """Let a model, or each member of an ensemble, read a batch."""
    states = zip(params, batch_stats, strict=True) if isinstance(params, tuple) else [(params, batch_stats)]
    found = [translation.encode(nnx.merge(graphdef, *state), batch) for state in states]
    return [member for one in found for member in (one if isinstance(one, list) else [one])]
