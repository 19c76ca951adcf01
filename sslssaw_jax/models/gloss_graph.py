"""The graph of GBT (question + gloss): glosses joined to the positions that show them, and to question words.

A recogniser's best path gives glosses, and each gloss chooses one word. Links are 1 or 0; through them,
gradients reach only the choice of words ("straight through", Jang et al. 2017).

B clips, T positions in time, N glosses of a clip, L words, G gloss ids, D features, H heads, K features of
a head, X and Y nodes, M states of the longest memory.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from sslssaw_jax.models.attention import Attention, KeysValues

BLANK = 0  # of CTC
_NEVER = -1e9  # a score that no softmax notices
_SLOPE = 0.2  # of the leaky ReLU below 0, as in GAT (Velickovic et al. 2018)


class Glosses(NamedTuple):
    """The glosses of a recogniser's best path; there are as many places as positions."""

    ids: jax.Array  # i32[B, N], BLANK after a clip's glosses
    mask: jax.Array  # bool[B, N]
    spans: jax.Array  # bool[B, N, T], the positions that show a gloss


def read_glosses(logits_BxTxG: jax.Array, mask_BxT: jax.Array) -> Glosses:
    """Return the best path's glosses, each with its own positions.

    A repeated gloss is another gloss with positions of its own; the public code gives all positions to
    the first.
    """
    best_BxT = jnp.where(mask_BxT, logits_BxTxG.argmax(axis=-1), BLANK)
    before_BxT = jnp.pad(best_BxT, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1]
    shows_BxT = best_BxT != BLANK
    number_BxT = jnp.cumsum(shows_BxT & (best_BxT != before_BxT), axis=1) - 1
    place_N = jnp.arange(best_BxT.shape[1])
    spans_BxNxT = (number_BxT[:, None] == place_N[:, None]) & shows_BxT[:, None]
    ids_BxN = (spans_BxNxT * best_BxT[:, None]).max(axis=2)
    return Glosses(ids_BxN, spans_BxNxT.any(axis=2), spans_BxNxT)


def choose_words(
    glosses_BxNxD: jax.Array,
    gloss_mask_BxN: jax.Array,
    words_BxLxD: jax.Array,
    word_mask_BxL: jax.Array,
    temperature: jax.Array | float = 1.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Return the one word of each gloss as links f32[B, N, L].

    With a key, the word is drawn by a hard Gumbel-softmax, whose soft version at `temperature` gives the
    gradient; without a key, it is the most likely word.
    """
    scores_BxNxL = jnp.einsum("BND,BLD->BNL", glosses_BxNxD, words_BxLxD, preferred_element_type=jnp.float32)
    scores_BxNxL = jax.nn.log_softmax(jnp.where(word_mask_BxL[:, None], scores_BxNxL, _NEVER))
    if key is not None:
        scores_BxNxL += jax.random.gumbel(key, scores_BxNxL.shape)
    soft_BxNxL = jax.nn.softmax(scores_BxNxL / temperature)
    hard_BxNxL = jax.nn.one_hot(scores_BxNxL.argmax(axis=-1), scores_BxNxL.shape[-1])
    links_BxNxL = hard_BxNxL + (soft_BxNxL - jax.lax.stop_gradient(soft_BxNxL))
    return jnp.where(gloss_mask_BxN[..., None] & word_mask_BxL[:, None], links_BxNxL, 0)


class GatedFusion(nnx.Module):
    """A gate between a state and what is added: `f (W a + U b) + (1 - f) a`, `f = sigmoid(W' a + U' b)`."""

    def __init__(self, d_model: int, dropout: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        # each gives a part of the value and of the gate
        self.own, self.added = (
            nnx.Linear(d_model, 2 * d_model, use_bias=False, dtype=dtype, rngs=rngs) for _ in range(2)
        )
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, a: jax.Array, b: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        value, gate = jnp.split((self.own(a) + self.added(b)).astype(jnp.float32), 2, axis=-1)
        gate = jax.nn.sigmoid(gate)
        return self.dropout(gate * value + (1 - gate) * a, rngs=rngs)


class GraphAttention(nnx.Module):
    """A graph attention (GAT) from nodes to their neighbours, with one projection for both sides.

    Its heads are trained, and its softmax runs over a node's neighbours. A node without any gets zeros.
    """

    def __init__(self, d_model: int, heads: int, dropout: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        size = d_model // heads
        self.project = nnx.LinearGeneral(d_model, (heads, size), use_bias=False, dtype=dtype, rngs=rngs)
        init = nnx.initializers.normal(size**-0.5)
        self.query, self.key = (nnx.Param(init(rngs.params(), (heads, size))) for _ in range(2))
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self, nodes_BxXxD: jax.Array, others_BxYxD: jax.Array, links_BxXxY: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """Return each node's message from the linked others, f32[B, X, D]."""
        nodes_BxXxHxK = self.project(nodes_BxXxD).astype(jnp.float32)
        others_BxYxHxK = self.project(others_BxYxD).astype(jnp.float32)
        scores_BxHxXxY = (
            jnp.einsum("BXHK,HK->BHX", nodes_BxXxHxK, self.query[...])[..., None]
            + jnp.einsum("BYHK,HK->BHY", others_BxYxHxK, self.key[...])[:, :, None]
        )
        links_Bx1xXxY = links_BxXxY[:, None].astype(jnp.float32)
        linked_Bx1xXxY = links_Bx1xXxY > 0
        scores_BxHxXxY = jnp.where(linked_Bx1xXxY, nnx.leaky_relu(scores_BxHxXxY, _SLOPE), _NEVER)
        weights_BxHxXxY = jnp.where(linked_Bx1xXxY, jax.nn.softmax(scores_BxHxXxY) * links_Bx1xXxY, 0)
        weights_BxHxXxY = self.dropout(weights_BxHxXxY, rngs=rngs)
        found_BxXxHxK = jnp.einsum("BHXY,BYHK->BXHK", weights_BxHxXxY, others_BxYxHxK)
        return nnx.elu(found_BxXxHxK).reshape(nodes_BxXxD.shape)


class Nodes(NamedTuple):
    """The states of the graph's three kinds of nodes."""

    glosses: jax.Array  # [B, N, D]
    positions: jax.Array  # [B, T, D]
    words: jax.Array  # [B, L, D]


class GraphLayer(nnx.Module):
    """A layer that carries glosses to positions, positions to glosses, and glosses to words and back.

    A position that shows no gloss stays as it is.
    """

    def __init__(self, d_model: int, heads: int, dropout: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        fusion = partial(GatedFusion, d_model, dropout, dtype=dtype, rngs=rngs)
        attention = partial(GraphAttention, d_model, heads, dropout, dtype=dtype, rngs=rngs)
        self.position_fusion, self.shown_fusion = fusion(), fusion()
        self.word_fusion, self.asked_fusion = fusion(), fusion()
        self.shown, self.word, self.asked = attention(), attention(), attention()

    def __call__(
        self, nodes: Nodes, spans_BxNxT: jax.Array, links_BxNxL: jax.Array, rngs: nnx.Rngs | None = None
    ) -> Nodes:
        glosses, positions, words = nodes
        own_BxTxD = jnp.einsum("BNT,BND->BTD", spans_BxNxT.astype(glosses.dtype), glosses)
        fused_BxTxD = self.position_fusion(positions, own_BxTxD, rngs)
        positions = jnp.where(spans_BxNxT.any(axis=1)[..., None], fused_BxTxD, positions)
        shown_BxNxD = self.shown(glosses, positions, spans_BxNxT, rngs)
        glosses = self.shown_fusion(glosses, shown_BxNxD, rngs)
        said_BxLxD = self.word(words, glosses, links_BxNxL.swapaxes(1, 2), rngs)
        words = self.word_fusion(words, said_BxLxD, rngs)
        asked_BxNxD = self.asked(glosses, words, links_BxNxL, rngs)
        return Nodes(self.asked_fusion(glosses, asked_BxNxD, rngs), positions, words)


MEMORIES = 3


def join_memories(
    states_BxXxD: Sequence[jax.Array], masks_BxX: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Concatenate memories, padded to the longest, and their masks."""
    longest = max(mask.shape[1] for mask in masks_BxX)

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0), (0, longest - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])

    return tuple(jnp.concatenate([pad(x) for x in each], axis=1) for each in (states_BxXxD, masks_BxX))  # type: ignore[return-value]


class MemoryAttention(Attention):
    """An attention that is applied to each of the joined memories; the results are summed.

    A memory without any state adds nothing.
    """

    def __call__(
        self, hidden_BxLxD: jax.Array, past: KeysValues, mask_BxLxS: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """Return the sum of all memories' attended states [B, L, D]."""
        keys, values = (jnp.split(x, MEMORIES, axis=2) for x in (past.keys, past.values))
        total_BxLxD = jnp.zeros((), hidden_BxLxD.dtype)
        for memory, mask_BxLxX in zip(
            map(KeysValues, keys, values), jnp.split(mask_BxLxS, MEMORIES, axis=2), strict=True
        ):
            attended_BxLxD = super().__call__(hidden_BxLxD, memory, mask_BxLxX, rngs)
            total_BxLxD += jnp.where(mask_BxLxX.any(axis=2, keepdims=True), attended_BxLxD, 0)
        return total_BxLxD


class Read(NamedTuple):
    """What GBT finds in a batch."""

    memory: jax.Array  # [B, 3 M, D], the states of glosses, positions and words
    memory_mask: jax.Array  # bool[B, 3 M]
    logits: jax.Array  # f32[B, T, G], of glosses
    mask: jax.Array  # bool[B, T]
    glosses: Glosses
    links: jax.Array  # f32[B, N, L], the word of each gloss
    seen: jax.Array  # [B, T, D], positions before the graph
    asked: jax.Array  # [B, L, D], words before the graph
    word_ids: jax.Array  # i32[B, L]
    word_mask: jax.Array  # bool[B, L]
    position_states: jax.Array  # f32[B, T, D], after graph and encoder
