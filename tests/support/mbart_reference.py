"""Hugging Face's mBART with random weights, and ours with the same."""

import tempfile
from pathlib import Path
from types import EllipsisType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import transformers
from flax import nnx
from transformers import MBartForConditionalGeneration

from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart import MBartConfig, TokenEmbedding
from sslssaw_jax.models.transformer import Decoder, Encoder
from sslssaw_jax.types import Array
from sslssaw_jax.weights.mbart import load_mbart
from sslssaw_jax.weights.torch_files import Checkpoint
from tests.support.pretrained import state_of
from tests.support.pytorch import torch

PAD, EOS, LANGUAGE, VOCAB_SIZE = 1, 2, 4, 40
CONFIG = MBartConfig(
    d_model=32,
    ffn_dim=48,
    text_layers=2,
    text_heads=4,
    decoder_layers=2,
    video_heads=2,
    decoder_heads=2,
    max_positions=32,
)


class MBart(nnx.Module):
    """An mBART assembled from our parts, as in the stages."""

    def __init__(self, config: MBartConfig, rngs: nnx.Rngs):
        self.embedding = TokenEmbedding(
            VOCAB_SIZE, config.d_model, tied_head=config.tied_head, dtype=jnp.float32, rngs=rngs
        )
        self.encoder = Encoder(config.text_layers, config.text_heads, config, rngs=rngs)
        self.decoder = Decoder(config.decoder_layers, config.decoder_heads, config, rngs=rngs)


class Pair(NamedTuple):
    theirs: MBartForConditionalGeneration
    ours: MBart  # deterministic


def random_pair(seed: int, special_bias: float = 0.0, config: MBartConfig = CONFIG) -> Pair:
    """Make both models with equal random weights; `special_bias` makes </s> and <pad> likely."""
    theirs = random_hugging_face(seed, config)
    with torch.no_grad():
        theirs.final_logits_bias[0, [EOS, PAD]] += special_bias
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = import_mbart(Path(folder), config)
    return Pair(theirs, ours)


def random_hugging_face(
    seed: int, config: MBartConfig = CONFIG, vocab_size: int = VOCAB_SIZE
) -> MBartForConditionalGeneration:
    """Make Hugging Face's model with every weight, bias and scale random."""
    torch.manual_seed(seed)
    theirs = MBartForConditionalGeneration(
        transformers.MBartConfig(
            vocab_size=vocab_size,
            d_model=config.d_model,
            encoder_layers=config.text_layers,
            decoder_layers=config.decoder_layers,
            encoder_ffn_dim=config.ffn_dim,
            decoder_ffn_dim=config.ffn_dim,
            encoder_attention_heads=config.text_heads,
            decoder_attention_heads=config.decoder_heads,
            max_position_embeddings=config.max_positions,
            activation_function=config.activation,
            tie_word_embeddings=config.tied_head,
            scale_embedding=True,
        )
    ).eval()
    spread = 0.25 * (32 / config.d_model) ** 0.5  # sums over D have the same size at every width
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            is_scale = "layer_norm" in name or "layernorm" in name
            mean = 1.0 if is_scale and name.endswith("weight") else 0.0
            # Strong positions: what comes next, and where a sentence ends, changes from step to step.
            weight.normal_(mean, 2.0 if "embed_positions" in name else spread)
        if not config.tied_head:  # trained, the two would still be one
            theirs.model.encoder.embed_tokens.weight.copy_(theirs.model.decoder.embed_tokens.weight)
        theirs.final_logits_bias.normal_(0.0, 0.5)
    return theirs


def import_mbart(folder: Path, config: MBartConfig = CONFIG) -> MBart:
    """Load our model from a Hugging Face folder, without dropout."""
    model = nnx.eval_shape(lambda: MBart(config, Keys(0)))
    state = load_mbart(state_of(model), Checkpoint(folder))
    return nnx.view(nnx.merge(nnx.graphdef(model), state.params), deterministic=True)


def random_tokens(rng: np.random.Generator, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw ids [B, max(lengths)] of ordinary words, padded on the right, and the mask."""
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(5, VOCAB_SIZE, mask.shape), PAD), mask


def relative_error(actual: Array, expected: Array, mask: Array | EllipsisType = ...) -> float:
    """Return the largest difference where `mask` is True, relative to the largest value."""
    actual, expected = np.asarray(actual)[mask], np.asarray(expected)[mask]
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
