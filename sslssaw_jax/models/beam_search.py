"""Beam search under jit, with a key-value cache and early exit.

Dimensions: B clips, K beams, R = B x K rows, P prompt tokens, N new tokens, V vocabulary, M members of an
ensemble, J chosen beams.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

IMPOSSIBLE = -1e9  # a score below all real ones


class Cache(Protocol):
    """What a decoder knows about its rows' past."""

    def take(self, rows: jax.Array, /) -> Self:
        """Return the cache whose row r continues row `rows[r]` of its clip."""


class CachedDecoder(Protocol):
    """A decoder that reads token by token, whatever its encoder found."""

    def __call__(
        self,
        embedded_BxLxD: jax.Array,
        mask_BxL: jax.Array,
        encoder_states: Any,
        encoder_mask_BxT: jax.Array,
        /,
    ) -> jax.Array:
        """Return states f32[B, L, D] with teacher forcing, from tokens so far."""

    def check_length(self, length: int, /) -> None:
        """Raise ConfigError if a sequence of this length exceeds the decoder's positions."""

    def init_cache(self, encoder_states: Any, encoder_mask_BxT: jax.Array, slots: int, /) -> Any:
        """Return an empty cache with a slot for each token of beams."""

    def extend(self, embedded_RxLxD: jax.Array, mask_RxL: jax.Array, cache: Any, /) -> tuple[jax.Array, Any]:
        """Return the states of more tokens, f32[R, L, D], and the cache."""


class EncodedModel(NamedTuple):
    """A model that has read a batch; several are an ensemble."""

    decoder: CachedDecoder
    embed: Callable[[jax.Array], jax.Array]  # tokens [R, L] -> the decoder's input [R, L, D]
    logits: Callable[[jax.Array], jax.Array]  # the decoder's states [R, L, D] -> logits [R, L, V]
    encoder_states: Any  # what the encoder found, as the decoder's `init_cache` takes it
    encoder_mask: jax.Array  # bool[B, T]
    gate: jax.Array | None = None  # f32[B, T], the fusion's weight of each position
    # (tokens `w_1 .. w_n </s> <language>` i32[B, K, L], their mask, scores f32[B, K]) -> ranks of the found
    # sentences, f32[B, K]; None: the scores rank them
    rank: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None


class _Search(NamedTuple):
    """A state of the search, whose beams are sorted, best first."""

    length: jax.Array  # i32[], new tokens so far
    caches: tuple[Cache, ...]  # one per member, for the running beams without their last tokens
    last: jax.Array  # i32[B, K], the last tokens of the running beams
    running: jax.Array  # i32[B, K, N]
    running_scores: jax.Array  # f32[B, K], sums of log-probabilities
    finished: jax.Array  # i32[B, K, N]
    finished_scores: jax.Array  # f32[B, K], divided by the length norm; IMPOSSIBLE means none yet
    open: jax.Array  # bool[B], clips whose result may still change


def beam_search(
    members: Sequence[EncodedModel],
    prompt_BxP: jax.Array,
    prompt_mask_BxP: jax.Array,
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float,
    length_norm: Literal["power", "gnmt"] = "power",
    eos_id: int,
    pad_id: int,
) -> tuple[jax.Array, jax.Array]:
    """Return the best continuations of each prompt and their scores.

    The tokens are those of Hugging Face's `generate(num_beams=beams, num_return_sequences=beams,
    early_stopping=False, forced_eos_token_id=eos_id, suppress_tokens=[pad_id])`, and the scores are its
    `sequences_scores`: the sum of log-probabilities, divided by the number of new tokens (with `eos_id`) to
    the power of `length_penalty`, or by GNMT's norm (Wu et al. 2016). One beam is greedy search. Several
    members predict the mean of their probabilities. The caller jits this function and makes the decoders
    deterministic.

    Args:
        members: One model, or an ensemble, that has read the batch.
        prompt_BxP: The prompts. The last token is padding only in rows without a clip; others may be.
        prompt_mask_BxP: Where a prompt holds a token.
        beams: Number of beams of a clip.
        max_new_tokens: N; the last new token of a sentence as long as this is `eos_id`.
        length_penalty: Exponent of the length by which the score is divided.
        length_norm: What is raised to that power: `power` the length, `gnmt` (5 + length) / 6.
        eos_id: The token that ends a sentence.
        pad_id: The token after `eos_id`, and everywhere in a row without a clip.

    Returns:
        Tokens i32[B, K, N] and scores f32[B, K], best first; `IMPOSSIBLE` is the score of a beam that found
        nothing.

    Raises:
        ConfigError: Prompt and new tokens exceed a decoder's positions.
    """
    batch, prompt_length = prompt_BxP.shape
    first_row_B = jnp.arange(batch) * beams
    readers = [_reader(member) for member in members]

    def advance(search: _Search) -> _Search:
        last_Rx1 = search.last.reshape(-1, 1)
        read = [reader(last_Rx1, cache) for reader, cache in zip(readers, search.caches, strict=True)]
        log_probs_MxRxV = jnp.stack([log_probs_RxV for log_probs_RxV, _ in read])
        log_probs_RxV = jax.nn.logsumexp(log_probs_MxRxV, axis=0) - math.log(len(members))
        vocab_size = log_probs_RxV.shape[-1]
        every_V = jnp.arange(vocab_size)
        log_probs_RxV = jnp.where(every_V == pad_id, IMPOSSIBLE, log_probs_RxV)
        forced_V = jnp.where(every_V == eos_id, 0.0, IMPOSSIBLE)
        log_probs_RxV = jnp.where(search.length == max_new_tokens - 1, forced_V, log_probs_RxV)

        # Twice the beams: if all of the best end here, enough others continue.
        scores_BxKxV = search.running_scores[..., None] + log_probs_RxV.reshape(batch, beams, -1)
        scores_Bx2K, choice_Bx2K = lax.top_k(scores_BxKxV.reshape(batch, -1), 2 * beams)
        parent_Bx2K, token_Bx2K = jnp.divmod(choice_Bx2K, vocab_size)
        candidates_Bx2KxN = _take(search.running, parent_Bx2K).at[:, :, search.length].set(token_Bx2K)
        ends_Bx2K = token_Bx2K == eos_id
        length = search.length + 1
        counted = length.astype(jnp.float32)
        norm = (counted if length_norm == "power" else (5 + counted) / 6) ** length_penalty

        # As in the reference, a sentence counts as finished only if it is among the best `beams` candidates,
        # and only while its clip is open.
        counts_Bx2K = ends_Bx2K & (jnp.arange(2 * beams) < beams) & search.open[:, None]
        ended_scores_Bx2K = jnp.where(counts_Bx2K, scores_Bx2K / norm, IMPOSSIBLE)
        finished_scores, best_BxK = lax.top_k(
            jnp.concatenate([search.finished_scores, ended_scores_Bx2K], axis=1), beams
        )
        finished = _take(jnp.concatenate([search.finished, candidates_Bx2KxN], axis=1), best_BxK)

        running_scores, best_BxK = lax.top_k(scores_Bx2K + ends_Bx2K * IMPOSSIBLE, beams)
        parent_BxK = _take(parent_Bx2K, best_BxK)
        parent_R = (first_row_B[:, None] + parent_BxK).reshape(-1)
        return _Search(
            length=length,
            caches=tuple(cache.take(parent_R) for _, cache in read),
            last=_take(token_Bx2K, best_BxK),
            running=_take(candidates_Bx2KxN, best_BxK),
            running_scores=running_scores,
            finished=finished,
            finished_scores=finished_scores,
            # A clip closes when its best running beam, ended here, is worse than every finished sentence.
            open=search.open & (running_scores[:, 0] / norm > finished_scores[:, -1]),
        )

    # A cache begins with the prompt except its last token, which the search reads first.
    slots = prompt_length - 1 + beams * max_new_tokens
    caches = []
    for member in members:
        member.decoder.check_length(prompt_length + max_new_tokens)
        cache = member.decoder.init_cache(member.encoder_states, member.encoder_mask, slots)
        if prompt_length > 1:
            embedded_BxPxD = member.embed(prompt_BxP[:, :-1])
            _, cache = member.decoder.extend(embedded_BxPxD, prompt_mask_BxP[:, :-1], cache)
        caches.append(cache.take(jnp.repeat(jnp.arange(batch), beams)))
    no_tokens = jnp.full((batch, beams, max_new_tokens), pad_id, jnp.int32)
    start = _Search(
        length=jnp.zeros((), jnp.int32),
        caches=tuple(caches),
        last=jnp.repeat(prompt_BxP[:, -1:], beams, axis=1),
        running=no_tokens,
        # All beams are equal at first, so only one may continue.
        running_scores=jnp.full((batch, beams), IMPOSSIBLE).at[:, 0].set(0.0),
        finished=no_tokens,
        finished_scores=jnp.full((batch, beams), IMPOSSIBLE),
        open=prompt_mask_BxP[:, -1],  # a row without a clip never delays the end
    )
    end = lax.while_loop(lambda search: (search.length < max_new_tokens) & search.open.any(), advance, start)
    return end.finished, end.finished_scores


def _reader(member: EncodedModel) -> Callable[[jax.Array, Cache], tuple[jax.Array, Cache]]:
    """Return the function that reads one more token per row.

    It maps tokens i32[R, 1] and a cache to log-probabilities f32[R, V] of the next tokens and a cache.
    """
    # On CPUs, few rows times a kernel [out, in] is up to twice as fast, so kernels are transposed once.
    decoder: Any = member.decoder
    kernel = nnx.PathContains("kernel")
    structure, kernels, others = nnx.split(decoder, kernel, ...)  # type: ignore[misc]
    turned = lax.optimization_barrier(_transpose(kernels))

    def read(token_Rx1: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        decoder = nnx.merge(structure, _transpose(turned), others)
        embedded_Rx1xD = member.embed(token_Rx1)
        hidden_Rx1xD, cache = decoder.extend(embedded_Rx1xD, jnp.ones(token_Rx1.shape, bool), cache)
        return jax.nn.log_softmax(member.logits(hidden_Rx1xD)[:, 0]), cache

    return read


def _transpose(kernels: nnx.State) -> nnx.State:
    return jax.tree.map(jnp.transpose, kernels)


def _take(beams: jax.Array, index_BxJ: jax.Array) -> jax.Array:
    """Return each clip's J chosen beams out of K, [B, J, ...]."""
    return jax.vmap(lambda beams, index: beams[index])(beams, index_BxJ)
