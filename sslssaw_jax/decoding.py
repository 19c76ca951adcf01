"""Beam search under jit, with a key-value cache and early exit.

Dimensions: B clips, K beams, R = B x K rows, P prompt tokens, N new tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from sslssaw_jax.models.mbart import Decoder, DecoderCache, TokenEmbedding

IMPOSSIBLE = -1e9  # a score below all real ones


class _Search(NamedTuple):
    """The state of the search; beams are sorted, best first."""

    length: jax.Array  # i32[], new tokens so far
    cache: DecoderCache  # of the running beams, without their last tokens
    last: jax.Array  # i32[B, K], the last tokens of the running beams
    running: jax.Array  # i32[B, K, N]
    running_scores: jax.Array  # f32[B, K], sums of log-probabilities
    finished: jax.Array  # i32[B, K, N]
    finished_scores: jax.Array  # f32[B, K], divided by length ** length_penalty; IMPOSSIBLE: none yet
    open: jax.Array  # bool[B], clips whose result may still change


def beam_search(
    decoder: Decoder,
    embedding: TokenEmbedding,
    logits: Callable[[jax.Array], jax.Array],
    encoder_states_BxTxD: jax.Array,
    encoder_mask_BxT: jax.Array,
    prompt_BxP: jax.Array,
    prompt_mask_BxP: jax.Array,
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float,
    eos_id: int,
    pad_id: int,
) -> tuple[jax.Array, jax.Array]:
    """The best continuation of each prompt: tokens i32[B, N], `pad_id` after `eos_id`, and scores f32[B].

    A prompt may hold padding anywhere but in its last place. A row whose encoder mask is all False gets
    `pad_id` alone. Token for token this is Hugging Face's
    `generate(num_beams=beams, early_stopping=False, forced_eos_token_id=eos_id, suppress_tokens=[pad_id])`
    and the score its `sequences_scores`: the sum of log-probabilities, divided by the number of new tokens
    (with `eos_id`) to the power of `length_penalty`. One beam is greedy search.

    To be called under jit, with a decoder that is deterministic. Raises ValueError where prompt and new
    tokens exceed the decoder's positions.
    """
    batch, prompt_length = prompt_BxP.shape
    vocab_size = embedding.embed.num_embeddings
    every_V = jnp.arange(vocab_size)
    first_row_B = jnp.arange(batch) * beams
    # Few rows times a kernel [out, in] is up to twice as fast on CPUs: turned once, not in every step.
    structure, kernels, others = nnx.split(decoder, nnx.PathContains("kernel"), ...)  # type: ignore[misc]
    turned = lax.optimization_barrier(_transpose(kernels))

    def advance(search: _Search) -> _Search:
        last_Rx1 = search.last.reshape(-1, 1)
        hidden_Rx1xD, cache = nnx.merge(structure, _transpose(turned), others).extend(
            embedding(last_Rx1), jnp.ones(last_Rx1.shape, bool), search.cache
        )
        log_probs_RxV = jax.nn.log_softmax(logits(hidden_Rx1xD)[:, 0])
        log_probs_RxV = jnp.where(every_V == pad_id, IMPOSSIBLE, log_probs_RxV)
        forced_V = jnp.where(every_V == eos_id, 0.0, IMPOSSIBLE)
        log_probs_RxV = jnp.where(search.length == max_new_tokens - 1, forced_V, log_probs_RxV)

        # Twice the beams: were all the best to end here, as many would still run.
        scores_BxKxV = search.running_scores[..., None] + log_probs_RxV.reshape(batch, beams, -1)
        scores_Bx2K, choice_Bx2K = lax.top_k(scores_BxKxV.reshape(batch, -1), 2 * beams)
        parent_Bx2K, token_Bx2K = jnp.divmod(choice_Bx2K, vocab_size)
        candidates_Bx2KxN = _take(search.running, parent_Bx2K).at[:, :, search.length].set(token_Bx2K)
        ends_Bx2K = token_Bx2K == eos_id
        length = search.length + 1
        norm = length.astype(jnp.float32) ** length_penalty

        # A sentence counts as finished only where it is among the best `beams` candidates, and only while
        # its clip is open: both as the reference has it.
        counts_Bx2K = ends_Bx2K & (jnp.arange(2 * beams) < beams) & search.open[:, None]
        ended_scores_Bx2K = jnp.where(counts_Bx2K, scores_Bx2K / norm, IMPOSSIBLE)
        finished_scores, best_BxK = lax.top_k(
            jnp.concatenate([search.finished_scores, ended_scores_Bx2K], axis=1), beams
        )
        finished = _take(jnp.concatenate([search.finished, candidates_Bx2KxN], axis=1), best_BxK)

        running_scores, best_BxK = lax.top_k(scores_Bx2K + ends_Bx2K * IMPOSSIBLE, beams)
        parent_BxK = _take(parent_Bx2K, best_BxK)
        return _Search(
            length=length,
            cache=cache.take((first_row_B[:, None] + parent_BxK).reshape(-1)),
            last=_take(token_Bx2K, best_BxK),
            running=_take(candidates_Bx2KxN, best_BxK),
            running_scores=running_scores,
            finished=finished,
            finished_scores=finished_scores,
            # Closed once the best running beam, ended here, would be worse than every finished sentence.
            open=search.open & (running_scores[:, 0] / norm > finished_scores[:, -1]),
        )

    # All but the prompt's last token, which the search itself reads first.
    decoder.check_length(prompt_length + max_new_tokens)
    slots = prompt_length - 1 + beams * max_new_tokens
    cache = decoder.init_cache(encoder_states_BxTxD, encoder_mask_BxT, slots)
    if prompt_length > 1:
        _, cache = decoder.extend(embedding(prompt_BxP[:, :-1]), prompt_mask_BxP[:, :-1], cache)
    no_tokens = jnp.full((batch, beams, max_new_tokens), pad_id, jnp.int32)
    start = _Search(
        length=jnp.zeros((), jnp.int32),
        cache=cache.take(jnp.repeat(jnp.arange(batch), beams)),
        last=jnp.repeat(prompt_BxP[:, -1:], beams, axis=1),
        running=no_tokens,
        # All beams are alike at first: only one may have children.
        running_scores=jnp.full((batch, beams), IMPOSSIBLE).at[:, 0].set(0.0),
        finished=no_tokens,
        finished_scores=jnp.full((batch, beams), IMPOSSIBLE),
        open=encoder_mask_BxT.any(axis=1),  # a row that holds no clip keeps nobody waiting
    )
    end = lax.while_loop(lambda search: (search.length < max_new_tokens) & search.open.any(), advance, start)
    return end.finished[:, 0], end.finished_scores[:, 0]


def _transpose(kernels: nnx.State) -> nnx.State:
    return jax.tree.map(jnp.transpose, kernels)


def _take(beams: jax.Array, index_BxJ: jax.Array) -> jax.Array:
    """Of each clip's beams [B, K, ...], or candidates, those of its index: [B, J, ...]."""
    return jax.vmap(lambda beams, index: beams[index])(beams, index_BxJ)
