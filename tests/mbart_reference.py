"""Hugging Face's mBART with random weights, and ours with the same."""

from types import EllipsisType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import MBartConfig, MBartForConditionalGeneration

from sslssaw_jax.config import TransformerConfig
from sslssaw_jax.models.mbart import Decoder, Encoder, TokenEmbedding
from sslssaw_jax.types import Array

torch = pytest.importorskip("torch")

PAD, EOS, LANGUAGE, VOCAB_SIZE = 1, 2, 4, 40
CONFIG = TransformerConfig(d_model=32, ffn_dim=48, text_heads=4, heads=2, max_positions=32)
LAYERS = 2
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


class MBart(nnx.Module):
    """The parts together, as their owners put them together."""

    def __init__(self, rngs: nnx.Rngs):
        self.shared = TokenEmbedding(VOCAB_SIZE, CONFIG.d_model, dtype=jnp.float32, rngs=rngs)
        self.encoder = Encoder(LAYERS, CONFIG.text_heads, CONFIG, rngs=rngs)
        self.decoder = Decoder(LAYERS, CONFIG.heads, CONFIG, rngs=rngs)


class Pair(NamedTuple):
    theirs: MBartForConditionalGeneration
    ours: MBart  # deterministic


def random_pair(seed: int, special_bias: float = 0.0) -> Pair:
    """Both with every weight, bias and scale random; `special_bias` makes </s> and <pad> likely."""
    torch.manual_seed(seed)
    theirs = MBartForConditionalGeneration(
        MBartConfig(
            vocab_size=VOCAB_SIZE,
            d_model=CONFIG.d_model,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_ffn_dim=CONFIG.ffn_dim,
            decoder_ffn_dim=CONFIG.ffn_dim,
            encoder_attention_heads=CONFIG.text_heads,
            decoder_attention_heads=CONFIG.heads,
            max_position_embeddings=CONFIG.max_positions,
            scale_embedding=True,
        )
    ).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            is_scale = "layer_norm" in name or "layernorm" in name
            mean = 1.0 if is_scale and name.endswith("weight") else 0.0
            # Strong positions: what comes next, and where a sentence ends, changes from step to step.
            weight.normal_(mean, 2.0 if "embed_positions" in name else 0.25)
        theirs.final_logits_bias.normal_(0.0, 0.5)
        theirs.final_logits_bias[0, [EOS, PAD]] += special_bias

    state = theirs.state_dict()
    ours = nnx.eval_shape(lambda: MBart(nnx.Rngs(0)))
    graphdef, params = nnx.split(ours)
    flat = nnx.to_flat_state(params)
    for path, param in flat:
        parts = [str(part) for part in path if part not in ("input", "feed_forward", "embed")]
        if parts == ["shared", "final_logits_bias"]:
            value = state["final_logits_bias"][0]
        else:
            value = state[".".join(["model", *parts[:-1], LEAVES[parts[-1]]])]
        value = value.T if parts[-1] == "kernel" else value
        assert value.shape == param.shape, path
        param.set_value(jnp.asarray(value.numpy()))
    ours = nnx.merge(graphdef, nnx.from_flat_state(flat))
    return Pair(theirs, nnx.view(ours, deterministic=True))


def random_tokens(rng: np.random.Generator, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ids [B, max(lengths)] of ordinary words padded on the right, and their mask."""
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(5, VOCAB_SIZE, mask.shape), PAD), mask


def relative_error(actual: Array, expected: Array, mask: Array | EllipsisType = ...) -> float:
    """The largest difference where `mask` is True, in units of the largest value."""
    actual, expected = np.asarray(actual)[mask], np.asarray(expected)[mask]
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
