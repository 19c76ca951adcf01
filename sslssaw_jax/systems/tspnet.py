"""TSPNet, a temporal semantic pyramid (Li et al. 2020): windows of three spans that attend to each other.

A transformer from video alone. Windows of 8, 12 and 16 frames, two frames apart, are three levels. A window
attends to its level, to the windows inside it and to those around it; the decoder reads the first level. The
defaults are the sizes of the public code (verashira/TSPNet); its recipe is in `configs/systems/tspnet.py`.

With `data.features`, three prepared sets are the windows, as wide as the encoder. Two parts are a
reconstruction: from frames, a window's features are a convolution over its frames' features from our CNN,
trained with the rest, while the paper takes them from an I3D; and words are the dataset's pieces, from
scratch, while the public code has BPEmb's 25,000 pieces with their vectors (`model.embedding_weights` loads
such a file). The paper's learned weights of the levels are not used in the released net, nor here.

The public code's oversights are not copied: its padding mask lets through one padded window of a clip, the
padding intended for the left is put on the right, and it selects the epoch on test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import fraction, group, positive, require, require_divisor
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart import TokenEmbedding
from sslssaw_jax.models.nested_windows import FrameWindows, Level, NestedEncoder, num_windows, prepared_levels
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.transformer import Decoder, LearnedPositions, TransformerConfig
from sslssaw_jax.stages.one_stage import one_stage
from sslssaw_jax.stages.stage import Stage, StageInputs, System
from sslssaw_jax.stages.warm_start import check_cnn_start
from sslssaw_jax.types import Batch, FeatureSize, most_rows


@dataclass(frozen=True)
class TSPNetConfig(TransformerConfig):
    """The published sizes."""

    d_model: int = positive(1024)  # of the encoder
    ffn_dim: int = positive(2048)
    dropout: float = fraction(0.4)
    cnn: CNNConfig = group(CNNConfig)
    spans: tuple[int, ...] = (8, 12, 16)  # frames of a window on each level; the decoder reads the first
    stride: int = positive(2)  # frames from a window to the next
    encoder_layers: int = positive(1)
    heads: int = positive(8)
    decoder_d_model: int = positive(300)
    decoder_layers: int = positive(6)
    decoder_heads: int = positive(10)
    # of the decoder: a file of vectors in the text format of word2vec
    embedding_weights: str | None = None

    def __post_init__(self) -> None:
        require_divisor("heads", self.heads, self.d_model)
        heads, width = self.decoder_heads, self.decoder_d_model
        require(
            heads > 0 and width % heads == 0,
            f"decoder_heads is {heads}; it must divide decoder_d_model {width}",
        )
        require(
            len(self.spans) > 0 and all(a < b for a, b in pairwise((0, *self.spans))),
            f"spans is {self.spans}; each must be positive and longer than the one before",
        )


class TSPNet(nnx.Module):
    """A transformer from windows of several spans to a sentence."""

    def __init__(self, config: Config, inputs: StageInputs, *, rngs: nnx.Rngs):
        model: TSPNetConfig = config.model
        dtype = compute_dtype(config.compute.dtype)
        narrow = replace(model, d_model=model.decoder_d_model, heads=model.decoder_heads)
        self.video = None if config.data.features else _frame_windows(config, dtype, rngs)
        self.encoder = NestedEncoder(
            model.encoder_layers, model.heads, model, model.spans, model.stride, dtype=dtype, rngs=rngs
        )
        self.embed_target = TokenEmbedding(
            inputs.vocab_size, narrow.d_model, tied_head=False, dtype=dtype, rngs=rngs
        )
        self.decoder = Decoder(
            model.decoder_layers,
            model.decoder_heads,
            narrow,
            LearnedPositions,
            post_norm=True,
            encoder_d_model=model.d_model,
            dtype=dtype,
            rngs=rngs,
        )

    def decode(
        self, stream: Stream, states_BxTxD: jax.Array, mask_BxT: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits `[B,L,V]` at each position from the positions before it."""
        embedded = self.embed_target(stream.tokens)
        return self.logits(self.decoder(embedded, stream.mask, states_BxTxD, mask_BxT, rngs))

    def logits(self, hidden_BxLxD: jax.Array) -> jax.Array:
        """Return logits of the next token, f32[B, L, V]."""
        return self.embed_target.logits(hidden_BxLxD)


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make the translation stage, after the warm start if any.

    Raises:
        ConfigError: The feature sets are not the windows that the model reads.
    """
    _require_windows(config, inputs)

    def read(
        model: TSPNet, batch: Batch, augment_key: jax.Array | None, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        return model.encoder(_levels(model, batch, config, augment_key), rngs)

    return one_stage(config, inputs, lambda key: TSPNet(config, inputs, rngs=Keys(key)), read)


def _frame_windows(config: Config, dtype: jnp.dtype, rngs: nnx.Rngs) -> FrameWindows:
    model: TSPNetConfig = config.model
    return FrameWindows(
        model.cnn,
        model.d_model,
        model.spans,
        model.stride,
        image_size=config.data.image_size,
        max_frames=config.data.max_frames,
        dtype=dtype,
        rngs=rngs,
    )


def _levels(model: TSPNet, batch: Batch, config: Config, augment_key: jax.Array | None) -> Sequence[Level]:
    if model.video is None:
        return prepared_levels(
            batch.features, batch.valid, most_rows(config.data.max_frames, config.model.stride)
        )
    frames_NxHxWx3, frame_mask_N = prepare_frames(batch, config.data, augment_key)
    return model.video(frames_NxHxWx3, frame_mask_N, batch.packed_clips)


def _require_windows(config: Config, inputs: StageInputs) -> None:
    model: TSPNetConfig = config.model
    names = config.data.features
    wanted = [FeatureSize(model.d_model, model.stride, span) for span in model.spans]
    for name, one, other in zip(names, inputs.features, wanted):
        require(
            one == other,
            f"config.data.features names {name!r}, rows of width {one.width}, stride {one.stride} and span "
            f"{one.span}; in that place config.model has d_model {other.width}, stride {other.stride} and "
            f"the span {other.span} of {model.spans}: name the sets in the order of the spans, or "
            "change config.model",
        )


def check(config: Config) -> None:
    """Raise ConfigError for settings that do not fit TSPNet."""
    check_cnn_start(config)
    model: TSPNetConfig = config.model
    sets, spans = config.data.features, model.spans
    require(
        len(sets) in (0, len(spans)),
        f"config.data.features is {sets} and config.model.spans is {spans}: name one set for each span",
    )
    windows = num_windows(max(config.data.max_frames, *model.spans), model.spans[0], model.stride)
    require(
        windows <= model.max_positions,
        f"config.model.max_positions is {model.max_positions}; clips of {config.data.max_frames} frames have "
        f"{windows} windows: raise it, or lower config.data.max_frames",
    )


SYSTEM = System(TSPNetConfig, make_stages, check, reads=("frames", "features"), feature_sets=3)
