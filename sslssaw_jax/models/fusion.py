"""Fusion of question and video into one sequence (Sec. 3.3, Table 5).

B clips, T joint positions (question first, then video), D features.
Every fusion maps `(joint_BxTxD, mask_BxT)` to `(fused_BxTxD, gate_BxT)`; the gate is a mean weight over D,
and None for a fusion without one.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import fraction, positive
from sslssaw_jax.models.attention import Attention


@dataclass(frozen=True)
class FusionConfig:
    """Kind and sizes of the fusion of question and video (Table 5)."""

    kind: Literal["ssaw", "concat", "lstm", "tcn", "transformer"] = "ssaw"
    heads: int = positive(8)
    ffn_dim: int = positive(4096)
    dropout: float = fraction(0.1)
    attention_dropout: float = fraction(0.0)
    gate_norm: bool = True  # the last LayerNorm, which makes SSAW's mean gates of all positions nearly equal
    gate_scale: float = positive(1.0)  # factor of SSAW's gate; 2 compensates for a gate near 0.5
    convolution: bool = False  # the first layer of a TCN before the fusion, in which neighbours mix
    positions: bool = False  # add sinusoids to `f_c`: attention alone sees no order, an LSTM or a TCN does


def concatenate_valid(
    question_BxLxD: jax.Array, question_mask_BxL: jax.Array, video_BxTxD: jax.Array, video_mask_BxT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Concatenate question and video (`f_c`, Eq. 3), with padding at the end.

    Padding between question and video would shift the encoder's positions and reach into convolutions.
    """
    padded = jnp.concatenate([question_BxLxD, video_BxTxD], axis=1)
    length_Bx1 = question_mask_BxL.sum(axis=1, keepdims=True)
    total_Bx1 = length_Bx1 + video_mask_BxT.sum(axis=1, keepdims=True)
    position_T = jnp.arange(padded.shape[1])
    gap_Bx1 = question_mask_BxL.shape[1] - length_Bx1
    source_BxT = jnp.where(position_T < length_Bx1, position_T, position_T + gap_Bx1)
    source_BxT = jnp.minimum(source_BxT, padded.shape[1] - 1)
    mask_BxT = position_T < total_Bx1
    joint_BxTxD = jnp.take_along_axis(padded, source_BxT[..., None], axis=1)
    return joint_BxTxD * mask_BxT[..., None], mask_BxT


class Concat(nnx.Module):
    """A fusion that leaves the joint sequence unchanged."""

    def __init__(self, d_model: int, config: FusionConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        del d_model, config, dtype, rngs

    def __call__(
        self, joint_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, None]:
        return joint_BxTxD, None


class Transformer(nnx.Module):
    """A post-norm transformer layer over the joint sequence: SSAW without its sigmoid and product."""

    def __init__(self, d_model: int, config: FusionConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attention = Attention(d_model, config.heads, config.attention_dropout, dtype=dtype, rngs=rngs)
        self.attention_norm = nnx.LayerNorm(d_model, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.linear1 = nnx.Linear(d_model, config.ffn_dim, dtype=dtype, rngs=rngs)
        self.linear2 = nnx.Linear(config.ffn_dim, d_model, dtype=dtype, rngs=rngs)
        self.ffn_norm = (
            nnx.LayerNorm(d_model, epsilon=1e-5, dtype=dtype, rngs=rngs) if config.gate_norm else None
        )
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self, joint_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        return self.layer(joint_BxTxD, mask_BxT, rngs) * mask_BxT[..., None], None

    def layer(self, joint_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the layer's output `f_f`, [B,T,D] (Eq. 3-4)."""
        attended_BxTxD = self.attention(
            joint_BxTxD, self.attention.keys_values(joint_BxTxD), mask_BxT[:, None], rngs
        )
        f_a_BxTxD = self.attention_norm(joint_BxTxD + self.dropout(attended_BxTxD, rngs=rngs))
        hidden_BxTxF = self.dropout(nnx.relu(self.linear1(f_a_BxTxD)), rngs=rngs)
        f_f_BxTxD = f_a_BxTxD + self.dropout(self.linear2(hidden_BxTxF), rngs=rngs)
        return f_f_BxTxD if self.ffn_norm is None else self.ffn_norm(f_f_BxTxD)


class SSAW(Transformer):
    """Sigmoid self-attention weighting (Eq. 3-4), a gate on `f_c`."""

    def __init__(self, d_model: int, config: FusionConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(d_model, config, dtype=dtype, rngs=rngs)
        self.scale = config.gate_scale

    def __call__(
        self, joint_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        gate_BxTxD = self.gate(joint_BxTxD, mask_BxT, rngs)
        weight_BxT = jnp.where(mask_BxT, gate_BxTxD.mean(axis=-1), 0)
        scaled_BxTxD = self.scale * gate_BxTxD.astype(joint_BxTxD.dtype)
        return joint_BxTxD * scaled_BxTxD * mask_BxT[..., None], weight_BxT

    def gate(self, joint_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return each feature's weight in 0 to 1, f32[B,T,D] (Eq. 3-4)."""
        return jax.nn.sigmoid(self.layer(joint_BxTxD, mask_BxT, rngs).astype(jnp.float32))


class LSTM(nnx.Module):
    """A bidirectional LSTM over the joint sequence, D / 2 each way, in float32."""

    def __init__(self, d_model: int, config: FusionConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):

        def rnn(reverse: bool) -> nnx.RNN:
            cell = nnx.OptimizedLSTMCell(d_model, d_model // 2, dtype=jnp.float32, rngs=rngs)
            # rngs=False: a random key must not become part of a checkpoint
            return nnx.RNN(cell, reverse=reverse, keep_order=True, rngs=False)

        self.forward, self.backward = rnn(reverse=False), rnn(reverse=True)
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self, joint_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, None]:
        length_B = mask_BxT.sum(axis=1)
        zero_BxD = jnp.zeros((joint_BxTxD.shape[0], joint_BxTxD.shape[2] // 2))
        states = [
            rnn(joint_BxTxD, initial_carry=(zero_BxD, zero_BxD), seq_lengths=length_B)
            for rnn in (self.forward, self.backward)
        ]
        fused_BxTxD = self.dropout(jnp.concatenate(states, axis=-1), rngs=rngs)
        return fused_BxTxD.astype(joint_BxTxD.dtype) * mask_BxT[..., None], None


class TCN(nnx.Module):
    """Residual dilated convolutions (Bai et al. 2018), centered instead of causal."""

    DILATIONS: tuple[int, ...] = (1, 2, 4, 8)

    def __init__(self, d_model: int, config: FusionConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):

        def conv(dilation: int) -> nnx.Conv:
            return nnx.Conv(d_model, d_model, (3,), kernel_dilation=dilation, dtype=dtype, rngs=rngs)

        self.convs = nnx.List([conv(dilation) for dilation in self.DILATIONS])
        self.norms = nnx.List(
            [nnx.LayerNorm(d_model, epsilon=1e-5, dtype=dtype, rngs=rngs) for _ in self.DILATIONS]
        )
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(
        self, joint_BxTxD: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, None]:
        x_BxTxD = joint_BxTxD * mask_BxT[..., None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y_BxTxD = self.dropout(nnx.relu(norm(conv(x_BxTxD))), rngs=rngs)
            x_BxTxD = (x_BxTxD + y_BxTxD) * mask_BxT[..., None]
        return x_BxTxD, None


class Convolution(TCN):
    """The first layer of a TCN alone: each position mixes with its two neighbours."""

    DILATIONS = (1,)


FUSIONS = {"ssaw": SSAW, "concat": Concat, "lstm": LSTM, "tcn": TCN, "transformer": Transformer}
