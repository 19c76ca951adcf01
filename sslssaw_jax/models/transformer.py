"""Transformer encoder and decoder; by default as in Hugging Face's mBART (Liu et al. 2020).

Modules and their parameters have Hugging Face's names. A pre-norm layer normalizes what its blocks read, as
in mBART; a post-norm layer normalizes the sum of each block and its residual (Vaswani et al. 2017).

Padding may lie anywhere: masks are True at tokens, and a token's position is the number of tokens before it.
With padding on the right, the numbers are Hugging Face's. Products run in `dtype`; parameters, the residual
stream, layer norms and softmax are float32.

Dimensions: B clips, R rows (clips, or clips x beams, beams innermost), L tokens, Q tokens of all beams of
a clip, S cache slots, T encoder positions, D features, H heads, K features per head.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from sslssaw_jax.config.checks import ConfigError, fraction, positive
from sslssaw_jax.models.attention import Attention, KeysValues, MakeAttention
from sslssaw_jax.models.remat import Blocks

POSITION_OFFSET = 2  # fairseq's position table begins with unused rows
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes that all layers of a transformer share."""

    d_model: int = positive(1024)
    ffn_dim: int = positive(4096)
    max_positions: int = positive(1024)
    dropout: float = fraction(0.1)
    attention_dropout: float = fraction(0.0)
    activation_dropout: float = fraction(0.0)  # inside the feed-forward blocks
    activation: Literal["gelu", "relu"] = "gelu"


class LayerNorm(nnx.LayerNorm):
    """A layer norm in float32, of what a block reads or of its sum with the residual."""

    def __init__(self, d_model: int, post_norm: bool = False, *, rngs: nnx.Rngs):
        super().__init__(d_model, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)
        self.post_norm = post_norm

    def before(self, hidden_RxLxD: jax.Array) -> jax.Array:
        """Return a block's input, normalized if pre-norm."""
        return hidden_RxLxD if self.post_norm else self(hidden_RxLxD)

    def after(self, hidden_RxLxD: jax.Array) -> jax.Array:
        """Return a sum of block and residual, normalized if post-norm."""
        return self(hidden_RxLxD) if self.post_norm else hidden_RxLxD


@flax.struct.dataclass
class DecoderCache:
    """Keys and values of the decoder's past and the encoder's states.

    Slots are filled in order. The beams of a clip share its slots; `mask` says which are a beam's past.
    """

    past: tuple[KeysValues, ...]  # per layer, [B, H, S, K]
    mask: jax.Array  # bool[R, S], slots that hold a token of the row
    slot: jax.Array  # i32[], the next slot to fill
    encoder: tuple[KeysValues, ...]  # per layer, [B, H, T, K]
    encoder_mask: jax.Array  # bool[B, T]

    def take(self, rows: jax.Array) -> Self:
        """Return the cache whose row r continues row `rows[r]` of its clip."""
        return self.replace(mask=self.mask[rows])  # type: ignore[attr-defined]


def add(hidden: jax.Array, update: jax.Array) -> jax.Array:
    """Return states with a sublayer's update added.

    The barrier ends XLA's search for operations to fuse into one GPU kernel. Otherwise the search runs
    through the gradients of all layers, and stage 1 takes 1.7 times as long to compile.
    """
    return lax.optimization_barrier(hidden + update)


class FeedForward(nnx.Module):
    """A feed-forward block with its residual."""

    def __init__(
        self, config: TransformerConfig, post_norm: bool = False, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.final_layer_norm = LayerNorm(config.d_model, post_norm, rngs=rngs)
        self.fc1 = nnx.Linear(config.d_model, config.ffn_dim, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(config.ffn_dim, config.d_model, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.activation = config.activation
        self.activation_dropout = nnx.Dropout(config.activation_dropout)

    def __call__(self, hidden_RxLxD: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        inner = ACTIVATIONS[self.activation](self.fc1(self.final_layer_norm.before(hidden_RxLxD)))
        inner = self.fc2(self.activation_dropout(inner, rngs=rngs))
        return self.final_layer_norm.after(add(hidden_RxLxD, self.dropout(inner, rngs=rngs)))


class EncoderLayer(nnx.Module):
    """A layer of self-attention and feed-forward."""

    def __init__(
        self,
        config: TransformerConfig,
        num_heads: int,
        attention: MakeAttention = Attention,
        post_norm: bool = False,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.self_attn_layer_norm = LayerNorm(config.d_model, post_norm, rngs=rngs)
        self.self_attn = attention(
            config.d_model, num_heads, config.attention_dropout, dtype=dtype, rngs=rngs
        )
        self.feed_forward = FeedForward(config, post_norm, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self, hidden_BxTxD: jax.Array, mask_BxTxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return the layer's states; the mask may be [B, 1, T]."""
        normed_BxTxD = self.self_attn_layer_norm.before(hidden_BxTxD)
        attended_BxTxD = self.self_attn(
            normed_BxTxD, self.self_attn.keys_values(normed_BxTxD), mask_BxTxT, rngs
        )
        hidden_BxTxD = add(hidden_BxTxD, self.dropout(attended_BxTxD, rngs=rngs))
        return self.feed_forward(self.self_attn_layer_norm.after(hidden_BxTxD), rngs)


class DecoderLayer(nnx.Module):
    """A layer of causal self-attention, attention to the encoder, and feed-forward."""

    def __init__(
        self,
        config: TransformerConfig,
        num_heads: int,
        post_norm: bool = False,
        encoder_d_model: int | None = None,
        encoder_attention: MakeAttention = Attention,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.self_attn_layer_norm = LayerNorm(config.d_model, post_norm, rngs=rngs)
        sizes = config.d_model, num_heads, config.attention_dropout
        self.self_attn = Attention(*sizes, dtype=dtype, rngs=rngs)
        self.encoder_attn_layer_norm = LayerNorm(config.d_model, post_norm, rngs=rngs)
        self.encoder_attn = encoder_attention(*sizes, encoder_d_model, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(config, post_norm, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self,
        hidden_BxQxD: jax.Array,
        past: KeysValues,
        slot: jax.Array,
        mask_BxQxS: jax.Array,
        encoder: KeysValues,
        encoder_mask_Bx1xT: jax.Array,
        rngs: nnx.Rngs | None,
    ) -> tuple[jax.Array, KeysValues]:
        normed_BxQxD = self.self_attn_layer_norm.before(hidden_BxQxD)
        past = past.write(self.self_attn.keys_values(normed_BxQxD), slot)
        attended_BxQxD = self.self_attn(normed_BxQxD, past, mask_BxQxS, rngs)
        hidden_BxQxD = add(hidden_BxQxD, self.dropout(attended_BxQxD, rngs=rngs))
        hidden_BxQxD = self.self_attn_layer_norm.after(hidden_BxQxD)

        normed_BxQxD = self.encoder_attn_layer_norm.before(hidden_BxQxD)
        attended_BxQxD = self.encoder_attn(normed_BxQxD, encoder, encoder_mask_Bx1xT, rngs)
        hidden_BxQxD = add(hidden_BxQxD, self.dropout(attended_BxQxD, rngs=rngs))
        return self.feed_forward(self.encoder_attn_layer_norm.after(hidden_BxQxD), rngs), past


class LearnedPositions(nnx.Module):
    """Learned positions and dropout, applied before the layers."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        # From scratch, the reference's 0.02 would be too small compared with tokens of unit variance.
        init = nnx.initializers.normal(0.1)
        self.max_positions = config.max_positions
        rows = config.max_positions + POSITION_OFFSET
        self.embed_positions = nnx.Embed(rows, config.d_model, embedding_init=init, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self, embedded_RxLxD: jax.Array, positions_RxL: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        return self.dropout(self._add(embedded_RxLxD, positions_RxL), rngs=rngs)

    def _add(self, embedded_RxLxD: jax.Array, positions_RxL: jax.Array) -> jax.Array:
        _check_length(embedded_RxLxD.shape[1], self.max_positions)  # a table returns NaN beyond its end
        # Padding before the first token has position -1, which is one of the unused rows.
        return embedded_RxLxD + self.embed_positions(positions_RxL + POSITION_OFFSET)


class NormedPositions(LearnedPositions):
    """Learned positions, layer norm and dropout, as in mBART."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.layernorm_embedding = LayerNorm(config.d_model, rngs=rngs)

    def __call__(
        self, embedded_RxLxD: jax.Array, positions_RxL: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        return self.dropout(self.layernorm_embedding(self._add(embedded_RxLxD, positions_RxL)), rngs=rngs)


class SinusoidalPositions(nnx.Module):
    """Fixed positions (Vaswani et al. 2017), alternating sine and cosine, and dropout."""

    def __init__(self, config: TransformerConfig, dropout: float | None = None, *, rngs: nnx.Rngs):
        del rngs
        self.dropout = nnx.Dropout(config.dropout if dropout is None else dropout)

    def __call__(
        self, embedded_RxLxD: jax.Array, positions_RxL: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        d_model = embedded_RxLxD.shape[-1]
        frequency_D = 10_000.0 ** -(jnp.arange(d_model) // 2 * 2 / d_model)
        phase_D = jnp.arange(d_model) % 2 * (jnp.pi / 2)  # a cosine is a shifted sine
        waves_RxLxD = jnp.sin(positions_RxL[..., None] * frequency_D + phase_D)
        return self.dropout(embedded_RxLxD + waves_RxLxD, rngs=rngs)


Positions = Callable[..., LearnedPositions | SinusoidalPositions]  # with the arguments of both


class Encoder(Blocks):
    """mBART's encoder; other kinds of attention and positions are possible."""

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        config: TransformerConfig,
        attention: MakeAttention = Attention,
        positions: Positions = NormedPositions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.max_positions = config.max_positions
        self.input = positions(config, rngs=rngs)
        self.layers = nnx.List(
            [EncoderLayer(config, num_heads, attention, dtype=dtype, rngs=rngs) for _ in range(num_layers)]
        )
        self.layer_norm = LayerNorm(config.d_model, rngs=rngs)

    def __call__(
        self, embedded_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return the encoded states f32[B, T, D], meaningless at padding.

        Raises:
            ConfigError: T exceeds the model's positions.
        """
        _check_length(embedded_BxTxD.shape[1], self.max_positions)
        positions_BxT = jnp.cumsum(mask_BxT, axis=1) - 1
        hidden_BxTxD = self.input(embedded_BxTxD, positions_BxT, rngs)
        for layer in self.layers:
            hidden_BxTxD = self.call(layer, hidden_BxTxD, mask_BxT[:, None], rngs)
        return self.layer_norm(hidden_BxTxD)


class Decoder(Blocks):
    """mBART's decoder; teacher forcing, prompt and single step all run `extend`.

    Other kinds of positions and of attention to the encoder are possible.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        config: TransformerConfig,
        positions: Positions = NormedPositions,
        post_norm: bool = False,
        encoder_d_model: int | None = None,
        encoder_attention: MakeAttention = Attention,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.max_positions = config.max_positions
        self.input = positions(config, rngs=rngs)
        kinds = post_norm, encoder_d_model, encoder_attention
        self.layers = nnx.List(
            [DecoderLayer(config, num_heads, *kinds, dtype=dtype, rngs=rngs) for _ in range(num_layers)]
        )
        # the last post-norm layer has normalized its states already
        self.layer_norm = None if post_norm else LayerNorm(config.d_model, rngs=rngs)

    def __call__(
        self,
        embedded_BxLxD: jax.Array,
        mask_BxL: jax.Array,
        encoder_states_BxTxD: jax.Array,
        encoder_mask_BxT: jax.Array,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Return states f32[B, L, D] with teacher forcing, from tokens so far.

        Raises:
            ConfigError: L exceeds the model's positions.
        """
        self.check_length(embedded_BxLxD.shape[1])
        cache = self.init_cache(encoder_states_BxTxD, encoder_mask_BxT, embedded_BxLxD.shape[1])
        return self.extend(embedded_BxLxD, mask_BxL, cache, rngs)[0]

    def check_length(self, length: int) -> None:
        """Raise ConfigError if a sequence of this length exceeds the model's positions."""
        _check_length(length, self.max_positions)

    def init_cache(
        self, encoder_states_BxTxD: jax.Array, encoder_mask_BxT: jax.Array, slots: int
    ) -> DecoderCache:
        """Return an empty cache with a slot for each token of beams."""
        encoder = tuple(layer.encoder_attn.keys_values(encoder_states_BxTxD) for layer in self.layers)

        def empty(x: jax.Array) -> jax.Array:
            return jnp.zeros((*x.shape[:2], slots, x.shape[3]), x.dtype)

        return DecoderCache(
            past=jax.tree.map(empty, encoder),
            mask=jnp.zeros((len(encoder_states_BxTxD), slots), bool),
            slot=jnp.zeros((), jnp.int32),
            encoder=encoder,
            encoder_mask=encoder_mask_BxT,
        )

    def extend(
        self,
        embedded_RxLxD: jax.Array,
        mask_RxL: jax.Array,
        cache: DecoderCache,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, DecoderCache]:
        """Return the states of more tokens, f32[R, L, D], and the cache.

        Each beam sees its own past and its own new tokens; all beams of a clip are computed together. The
        caller must not exceed the cache's slots: tokens beyond would overwrite the last slots.
        """
        rows, length, d_model = embedded_RxLxD.shape
        batch, num_slots = len(cache.encoder_mask), cache.mask.shape[1]
        positions_RxL = cache.mask.sum(axis=1, keepdims=True) + jnp.cumsum(mask_RxL, axis=1) - 1
        # new tokens take slots beam by beam: the beam of each slot, and the slot's place within the beam
        beam_S, place_S = jnp.divmod(jnp.arange(num_slots) - cache.slot, length)
        own_RxS = beam_S == jnp.arange(rows)[:, None] % (rows // batch)
        new_RxS = own_RxS & jnp.take(mask_RxL, place_S, axis=1)
        mask_RxS = cache.mask | new_RxS
        seen_RxLxS = cache.mask[:, None] | (new_RxS[:, None] & (place_S <= jnp.arange(length)[:, None]))
        seen_BxQxS = seen_RxLxS.reshape(batch, -1, num_slots)
        encoder_mask_Bx1xT = cache.encoder_mask[:, None]

        hidden_BxQxD = self.input(embedded_RxLxD, positions_RxL, rngs).reshape(batch, -1, d_model)
        past = []
        for layer, layer_past, encoder in zip(self.layers, cache.past, cache.encoder):
            hidden_BxQxD, layer_past = self.call(
                layer, hidden_BxQxD, layer_past, cache.slot, seen_BxQxS, encoder, encoder_mask_Bx1xT, rngs
            )
            past.append(layer_past)
        cache = cache.replace(  # type: ignore[attr-defined]
            past=tuple(past), mask=mask_RxS, slot=cache.slot + hidden_BxQxD.shape[1]
        )
        if self.layer_norm is not None:
            hidden_BxQxD = self.layer_norm(hidden_BxQxD)
        return hidden_BxQxD.reshape(rows, length, d_model), cache


def _check_length(length: int, max_positions: int) -> None:
    if length > max_positions:
        raise ConfigError(
            f"a sequence of {length} exceeds the {max_positions} positions of the model: "
            "raise max_positions in config.model, or shorten the input"
        )
