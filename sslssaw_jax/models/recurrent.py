"""A recurrent encoder and decoder with attention, as in TensorFlow 1's `AttentionWrapper`.

Where a mask is False, a state stays as it is, so padding may lie anywhere. Products run in `dtype`; states
and softmax are float32.

B clips, R rows (clips, or clips x beams, beams innermost), K beams, T positions of the source, L tokens,
C input features, U units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from sslssaw_jax.config.checks import fraction, positive
from sslssaw_jax.models.remat import Blocks

State = tuple[jax.Array, ...]  # of a cell, each f32[R, U]; the first is the cell's output


@dataclass(frozen=True)
class RecurrentConfig:
    """Sizes and kinds that encoder and decoder share."""

    units: int = positive(1000)
    layers: int = positive(4)
    cell: Literal["gru", "lstm"] = "gru"
    residual: bool = True  # around every layer but the first
    dropout: float = fraction(0.2)  # of each layer's input
    attention: Literal["none", "bahdanau", "luong"] = "luong"


def _linear(inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs, **options: Any) -> nnx.Linear:
    init = nnx.initializers.glorot_normal()
    return nnx.Linear(inputs, outputs, kernel_init=init, dtype=dtype, rngs=rngs, **options)


_unbiased = partial(_linear, use_bias=False)
_gates = partial(_linear, preferred_element_type=jnp.float32)


class GRUCell(nnx.Module):
    """A gated recurrent unit that resets the state before its product, as TensorFlow 1's `GRUCell`.

    Torch, cuDNN and `nnx.GRUCell` reset after the product.
    """

    STATES = 1

    def __init__(self, inputs: int, units: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        # both gates are open at first
        bias = nnx.initializers.constant(np.repeat([1.0, 1.0, 0.0], units))
        self.input = _gates(inputs, 3 * units, bias_init=bias, dtype=dtype, rngs=rngs)
        self.gates = _gates(units, 2 * units, use_bias=False, dtype=dtype, rngs=rngs)
        self.candidate = _gates(units, units, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, state: State, projected_Rx3U: jax.Array) -> State:
        """Return the next state, from the input's projection."""
        (hidden_RxU,) = state
        gates_Rx2U, candidate_RxU = jnp.split(projected_Rx3U, [2 * hidden_RxU.shape[-1]], axis=-1)
        gates_Rx2U = jax.nn.sigmoid(gates_Rx2U + self.gates(hidden_RxU))
        reset_RxU, update_RxU = jnp.split(gates_Rx2U, 2, axis=-1)
        candidate_RxU = jnp.tanh(candidate_RxU + self.candidate(reset_RxU * hidden_RxU))
        return (update_RxU * hidden_RxU + (1 - update_RxU) * candidate_RxU,)


class LSTMCell(nnx.Module):
    """A long short-term memory with torch's equations; its forget gate is open at first."""

    STATES = 2

    def __init__(self, inputs: int, units: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        bias = nnx.initializers.constant(np.repeat([0.0, 1.0, 0.0, 0.0], units))
        self.input = _gates(inputs, 4 * units, bias_init=bias, dtype=dtype, rngs=rngs)
        self.recurrent = _gates(units, 4 * units, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, state: State, projected_Rx4U: jax.Array) -> State:
        """Return the next state, from the input's projection."""
        hidden_RxU, memory_RxU = state
        write, forget, new, read = jnp.split(projected_Rx4U + self.recurrent(hidden_RxU), 4, axis=-1)
        memory_RxU = jax.nn.sigmoid(forget) * memory_RxU + jax.nn.sigmoid(write) * jnp.tanh(new)
        return jax.nn.sigmoid(read) * jnp.tanh(memory_RxU), memory_RxU


CELLS = {"gru": GRUCell, "lstm": LSTMCell}


def _make_cells(inputs: int, config: RecurrentConfig, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.List:
    sizes = [inputs, *[config.units] * (config.layers - 1)]
    return nnx.List([CELLS[config.cell](size, config.units, dtype=dtype, rngs=rngs) for size in sizes])


def _scan(
    step: Callable[[Any, Any], tuple[Any, jax.Array]],
    carry: Any,
    inputs: Any,
    mask_RxL: jax.Array,
    *,
    remat: bool,
    reverse: bool = False,
) -> tuple[Any, jax.Array]:
    """Return the last carry and all outputs [R, L, ...].

    Args:
        step: Maps a carry and the inputs of one time to the next carry and an output.
        carry: The carry before the first step.
        inputs: Arrays [L, R, ...].
        mask_RxL: Where to step; elsewhere the carry stays as it is.
        remat: Whether the backward pass recomputes what happens inside a step.
        reverse: Whether to step from the last time to the first.
    """

    def masked(carry: Any, now: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        inputs, mask_R = now
        new, output = step(carry, inputs)
        keep = partial(jnp.where, mask_R[:, None])
        return jax.tree.map(keep, new, carry), output

    body = jax.checkpoint(masked, prevent_cse=False) if remat else masked
    carry, outputs_LxR = lax.scan(body, carry, (inputs, mask_RxL.T), reverse=reverse)
    return carry, outputs_LxR.swapaxes(0, 1)


def _step(cell: Any, state: State, projected: jax.Array) -> tuple[State, jax.Array]:
    """Step a cell, whose output is the first part of its state."""
    state = cell(state, projected)
    return state, state[0]


class Encoded(NamedTuple):
    """What a recurrent encoder found."""

    outputs: jax.Array  # f32[B, T, U], of the last layer, meaningless at padding
    states: tuple[State, ...]  # of each layer after the clip's last step


class RecurrentEncoder(Blocks):
    """A stack of recurrent layers, optionally from the last position to the first."""

    def __init__(
        self, inputs: int, config: RecurrentConfig, *, reverse: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.units, self.residual, self.reverse = config.units, config.residual, reverse
        self.cells = _make_cells(inputs, config, dtype, rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(self, x_BxTxC: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None) -> Encoded:
        """Return the last layer's outputs and all layers' last states."""
        states: list[State] = []
        for layer, cell in enumerate(self.cells):
            # one product for all times; only what depends on the state is left to the steps
            projected_TxB = cell.input(self.dropout(x_BxTxC, rngs=rngs)).swapaxes(0, 1)
            zero = (jnp.zeros((len(x_BxTxC), self.units)),) * cell.STATES

            step, reverse = partial(_step, cell), self.reverse
            state, output_BxTxU = _scan(
                step, zero, projected_TxB, mask_BxT, remat=self.remat, reverse=reverse
            )
            x_BxTxC = x_BxTxC + output_BxTxU if self.residual and layer else output_BxTxU
            states.append(state)
        return Encoded(x_BxTxC, tuple(states))


class Luong(nnx.Module):
    """Scores `q . W m` (Luong et al. 2015)."""

    def __init__(self, units: int, memory: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.memory = _unbiased(memory, units, dtype=dtype, rngs=rngs)

    def __call__(self, query_BxKxU: jax.Array, keys_BxTxU: jax.Array) -> jax.Array:
        """Return scores f32[B, K, T]."""
        query_BxKxU = query_BxKxU.astype(keys_BxTxU.dtype)
        return jnp.einsum("BKU,BTU->BKT", query_BxKxU, keys_BxTxU, preferred_element_type=jnp.float32)


class Bahdanau(nnx.Module):
    """Scores `v . tanh(W q + W' m)` (Bahdanau et al. 2015)."""

    def __init__(self, units: int, memory: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.memory = _unbiased(memory, units, dtype=dtype, rngs=rngs)
        self.query = _unbiased(units, units, dtype=dtype, rngs=rngs)
        self.score = _unbiased(units, 1, dtype=dtype, rngs=rngs)

    def __call__(self, query_BxKxU: jax.Array, keys_BxTxU: jax.Array) -> jax.Array:
        """Return scores f32[B, K, T]."""
        both_BxKxTxU = jnp.tanh(self.query(query_BxKxU)[:, :, None] + keys_BxTxU[:, None])
        return self.score(both_BxKxTxU)[..., 0].astype(jnp.float32)


ATTENTIONS: dict[str, type[Luong] | type[Bahdanau] | None] = {
    "none": None,
    "luong": Luong,
    "bahdanau": Bahdanau,
}


class _Carry(NamedTuple):
    """What a decoder carries from token to token."""

    states: tuple[State, ...]  # of each layer
    attended: jax.Array  # f32[R, U], the last attention vector; f32[R, 0] without attention


@flax.struct.dataclass
class RecurrentCache:
    """The states of the decoder's rows, and what all rows of a clip attend to."""

    carry: _Carry
    keys: Any  # [B, T, U], a tuple for several streams; None without attention
    outputs: Any  # f32[B, T, U], the encoder's; a tuple for several streams
    mask: jax.Array  # bool[B, T]

    def take(self, rows: jax.Array) -> Self:
        """Return the cache whose row r continues row `rows[r]`."""
        return self.replace(carry=jax.tree.map(lambda x: x[rows], self.carry))  # type: ignore[attr-defined]


class RecurrentDecoder(Blocks):
    """A stack of recurrent layers that starts from the encoder's states, with attention if configured.

    The attention vector is a linear map of the last layer's output and the context, the weighted mean of the
    encoder's outputs. The decoder returns it, and the first layer reads it together with the next token.
    """

    def __init__(self, inputs: int, config: RecurrentConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.residual, units = config.residual, config.units
        kind = ATTENTIONS[config.attention]
        self.attended_size = units if kind else 0
        self.cells = _make_cells(inputs + self.attended_size, config, dtype, rngs)
        self.attention = kind(units, units, dtype=dtype, rngs=rngs) if kind else None
        self.combine = _unbiased(2 * units, units, dtype=dtype, rngs=rngs) if kind else None
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self,
        embedded_BxLxC: jax.Array,
        mask_BxL: jax.Array,
        encoded: Any,  # as `init_cache` takes it
        encoder_mask_BxT: jax.Array,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Return states f32[B, L, U] with teacher forcing, from tokens so far."""
        cache = self.init_cache(encoded, encoder_mask_BxT, embedded_BxLxC.shape[1])
        return self.extend(embedded_BxLxC, mask_BxL, cache, rngs)[0]

    def check_length(self, length: int) -> None:
        """Accept every length, since there are no positions."""

    def init_cache(self, encoded: Any, encoder_mask_BxT: jax.Array, slots: int) -> RecurrentCache:
        """Return the cache before the first token; it has no slots."""
        keys = None if self.attention is None else self.attention.memory(encoded.outputs)
        attended = jnp.zeros((len(encoder_mask_BxT), self.attended_size))
        return RecurrentCache(_Carry(encoded.states, attended), keys, encoded.outputs, encoder_mask_BxT)

    def extend(
        self,
        embedded_RxLxC: jax.Array,
        mask_RxL: jax.Array,
        cache: RecurrentCache,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, RecurrentCache]:
        """Return the states of more tokens, f32[R, L, U], and the cache."""
        rows, length, _ = embedded_RxLxC.shape
        # drawn for all times at once: a step inside a scan cannot advance a random stream; and row by row, so
        # that draws do not depend on the rows that fill up the batch
        shapes = [(rows, length, cell.input.in_features) for cell in self.cells]
        kept = [
            self.dropout(jnp.ones(shape), rngs=rngs).swapaxes(0, 1) for shape in shapes if rngs is not None
        ]

        def step(carry: _Carry, now: tuple[jax.Array, list[jax.Array]]) -> tuple[_Carry, jax.Array]:
            token_RxC, kept = now
            x = jnp.concatenate([token_RxC, carry.attended], axis=-1)
            states: list[State] = []
            for layer, cell in enumerate(self.cells):
                projected = cell.input(x * kept[layer] if kept else x)
                states.append(cell(carry.states[layer], projected))
                x = x + states[-1][0] if self.residual and layer else states[-1][0]
            if not self.attended_size:
                return _Carry(tuple(states), carry.attended), x
            attended = self._attend(x, cache)
            return _Carry(tuple(states), attended), attended

        inputs = embedded_RxLxC.swapaxes(0, 1), kept
        carry, hidden_RxLxU = _scan(step, cache.carry, inputs, mask_RxL, remat=self.remat)
        return hidden_RxLxU, cache.replace(carry=carry)  # type: ignore[attr-defined]

    def _attend(self, output_RxU: jax.Array, cache: RecurrentCache) -> jax.Array:
        """Return the attention vector for the last layer's output, f32[R, U]."""
        assert self.attention is not None and self.combine is not None
        context_RxU = _context(self.attention, output_RxU, cache.keys, cache.outputs, cache.mask)
        both_Rx2U = jnp.concatenate([output_RxU, context_RxU], axis=-1)
        return self.combine(both_Rx2U).astype(jnp.float32)


class StreamsDecoder(RecurrentDecoder):
    """A recurrent decoder that starts from zeros and attends to several streams of the same positions.

    Each stream has Luong's scores and a softmax of its own; the attention vector is a linear map of the last
    layer's output and all contexts.

    Args:
        inputs: The features of a token.
        config: The sizes.
        streams: The features of each stream.
        dtype: The dtype of products.
        rngs: Random keys.
    """

    def __init__(
        self,
        inputs: int,
        config: RecurrentConfig,
        streams: Sequence[int],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.residual, self.attended_size = config.residual, config.units
        self.cells = _make_cells(inputs + config.units, config, dtype, rngs)
        self.attentions = nnx.List([Luong(config.units, width, dtype=dtype, rngs=rngs) for width in streams])
        self.combine = _unbiased(config.units + sum(streams), config.units, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)

    def init_cache(self, encoded: Any, encoder_mask_BxT: jax.Array, slots: int) -> RecurrentCache:
        """Return the cache before the first token; `encoded` is the streams."""
        keys = tuple(each.memory(x_BxTxC) for each, x_BxTxC in zip(self.attentions, encoded, strict=True))
        zero_BxU = jnp.zeros((len(encoder_mask_BxT), self.attended_size))
        states = ((zero_BxU,) * self.cells[0].STATES,) * len(self.cells)
        return RecurrentCache(_Carry(states, zero_BxU), keys, tuple(encoded), encoder_mask_BxT)

    def _attend(self, output_RxU: jax.Array, cache: RecurrentCache) -> jax.Array:
        """Return the attention vector for the last layer's output, f32[R, U]."""
        contexts = [
            _context(attention, output_RxU, keys, outputs, cache.mask)
            for attention, keys, outputs in zip(self.attentions, cache.keys, cache.outputs, strict=True)
        ]
        assert self.combine is not None
        return self.combine(jnp.concatenate([output_RxU, *contexts], axis=-1)).astype(jnp.float32)


def _context(
    attention: Luong | Bahdanau,
    query_RxU: jax.Array,
    keys_BxTxU: jax.Array,
    outputs_BxTxC: jax.Array,
    mask_BxT: jax.Array,
) -> jax.Array:
    """Return each row's weighted mean of the encoder's outputs, f32[R, C]."""
    query_BxKxU = query_RxU.reshape(len(mask_BxT), -1, query_RxU.shape[-1])
    scores_BxKxT = attention(query_BxKxU, keys_BxTxU)
    lowest = jnp.finfo(jnp.float32).min  # the softmax of -inf everywhere would be NaN
    weights_BxKxT = jax.nn.softmax(jnp.where(mask_BxT[:, None], scores_BxKxT, lowest))
    context_BxKxC = jnp.einsum("BKT,BTC->BKC", weights_BxKxT, outputs_BxTxC)
    return context_BxKxC.reshape(len(query_RxU), -1)
