"""Heads that name the gloss at each position in time, for CTC.

B clips, T positions in time, C features of a position, D features of the head, G glosses with the blank.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import fraction, positive, require
from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.precision import FloatLinear
from sslssaw_jax.models.recurrent import RecurrentConfig, RecurrentEncoder
from sslssaw_jax.models.transformer import SinusoidalPositions, TransformerConfig


@dataclass(frozen=True)
class GlossHeadConfig:
    """The head's kind and sizes; the defaults are those of MMTLB (Chen et al. 2022)."""

    kind: Literal["linear", "conv", "bilstm"] = "conv"
    d_model: int = positive(512)  # of the gloss feature; a linear head's feature is its input
    ffn_dim: int = positive(2048)  # of the conv head
    layers: int = positive(2)  # of the LSTM
    dropout: float = fraction(0.1)

    def __post_init__(self) -> None:
        require(
            self.kind != "bilstm" or self.d_model % 2 == 0,
            f"d_model is {self.d_model}; each direction of the LSTM has half of it, so it must be even",
        )

    def feature_width(self, inputs: int) -> int:
        """Return the gloss feature's width for an input of width `inputs`."""
        return inputs if self.kind == "linear" else self.d_model


class LinearHead(nnx.Module):
    """A linear layer; the gloss feature is its input."""

    def __init__(
        self, config: GlossHeadConfig, inputs: int, num_glosses: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        del config
        self.output = FloatLinear(inputs, num_glosses, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BxTxC: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return logits f32[B, T, G] and the gloss feature."""
        return self.output(x_BxTxC).astype(jnp.float32), x_BxTxC


class ConvHead(nnx.Module):
    """A head of MMTLB: Linear-BN-ReLU, positions, and a feed-forward block of two convolutions.

    A convolution sees zeros beyond the ends of a clip; in the public code it sees what is in the
    padding, so that a clip's glosses depend on its neighbours in the batch.
    """

    def __init__(
        self, config: GlossHeadConfig, inputs: int, num_glosses: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        d_model, kernel = config.d_model, (3,)
        norm: dict[str, Any] = {"epsilon": 1e-6, "dtype": jnp.float32, "use_fast_variance": False}
        self.project = nnx.Linear(inputs, d_model, dtype=dtype, rngs=rngs)
        self.project_norm = BatchNorm(d_model, dtype=dtype, rngs=rngs)
        self.positions = SinusoidalPositions(TransformerConfig(dropout=config.dropout), rngs=rngs)
        self.conv_norm = nnx.LayerNorm(d_model, rngs=rngs, **norm)
        self.conv1 = nnx.Conv(d_model, config.ffn_dim, kernel, dtype=dtype, rngs=rngs)
        self.conv2 = nnx.Conv(config.ffn_dim, d_model, kernel, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout)
        self.layer_norm = nnx.LayerNorm(d_model, rngs=rngs, **norm)
        self.output = FloatLinear(d_model, num_glosses, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BxTxC: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return logits f32[B, T, G] and the gloss feature [B, T, D]."""
        mask_BxTx1 = mask_BxT[..., None]
        x_BxTxD = self.project_norm(self.project(x_BxTxC), mask=mask_BxTx1, relu=True)
        x_BxTxD = self.positions(x_BxTxD, jnp.cumsum(mask_BxT, axis=1) - 1, rngs)
        inner = self.conv1(jnp.where(mask_BxTx1, self.conv_norm(x_BxTxD), 0))
        inner = self.dropout(jnp.where(mask_BxTx1, nnx.relu(inner), 0), rngs=rngs)
        x_BxTxD = x_BxTxD + self.dropout(self.conv2(inner), rngs=rngs)
        feature_BxTxD = self.layer_norm(x_BxTxD)
        return self.output(feature_BxTxD).astype(jnp.float32), feature_BxTxD


class BiLSTMHead(nnx.Module):
    """A head of bidirectional LSTM layers with torch's equations, like VAC's (Min et al. 2021).

    The backward direction starts at the clip's last position. Dropout is applied between the layers.
    """

    def __init__(
        self, config: GlossHeadConfig, inputs: int, num_glosses: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        half = RecurrentConfig(config.d_model // 2, layers=1, cell="lstm", residual=False, dropout=0.0)

        def directions(size: int) -> list[RecurrentEncoder]:
            both = (False, True)
            return [RecurrentEncoder(size, half, reverse=one, dtype=dtype, rngs=rngs) for one in both]

        sizes = [inputs, *[config.d_model] * (config.layers - 1)]
        self.layers = nnx.List([nnx.List(directions(size)) for size in sizes])
        self.dropout = nnx.Dropout(config.dropout)
        self.output = FloatLinear(config.d_model, num_glosses, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_BxTxC: jax.Array, mask_BxT: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return logits f32[B, T, G] and the gloss feature [B, T, D]."""
        for number, both in enumerate(self.layers):
            x_BxTxC = self.dropout(x_BxTxC, rngs=rngs) if number else x_BxTxC
            x_BxTxC = jnp.concatenate([read(x_BxTxC, mask_BxT).outputs for read in both], axis=-1)
        return self.output(x_BxTxC).astype(jnp.float32), x_BxTxC


GLOSS_HEADS: dict[str, type[LinearHead] | type[ConvHead] | type[BiLSTMHead]] = {
    "linear": LinearHead,
    "conv": ConvHead,
    "bilstm": BiLSTMHead,
}
