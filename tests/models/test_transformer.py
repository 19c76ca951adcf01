"""SLRT's encoder and decoder, compared with PyTorch's own layers."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.transformer import Decoder, Encoder, SinusoidalPositions, TransformerConfig
from tests.support.pytorch import torch
from tests.support.toy import assert_close, random_model

D, F, HEADS, LAYERS = 8, 12, 2, 2
CONFIG = TransformerConfig(d_model=D, ffn_dim=F, activation="relu", dropout=0.0)
# ours -> PyTorch's
MODULES = {"fc1": "linear1", "fc2": "linear2", "self_attn": "self_attn", "self_attn_layer_norm": "norm1"}
ENCODER_MODULES = MODULES | {"final_layer_norm": "norm2"}
DECODER_MODULES = MODULES | {
    "encoder_attn": "multihead_attn",
    "encoder_attn_layer_norm": "norm2",
    "final_layer_norm": "norm3",
}


def as_in_torch(linear_or_norm) -> dict[str, np.ndarray]:
    if "scale" in linear_or_norm:
        return {"weight": linear_or_norm["scale"], "bias": linear_or_norm["bias"]}
    return {"weight": linear_or_norm["kernel"].T, "bias": linear_or_norm["bias"]}


def attention_weights(attention) -> dict[str, np.ndarray]:
    parts = [as_in_torch(attention[f"{name}_proj"]) for name in "qkv"]
    joined = {f"in_proj_{key}": np.concatenate([part[key] for part in parts]) for key in ("weight", "bias")}
    return joined | {f"out_proj.{key}": value for key, value in as_in_torch(attention["out_proj"]).items()}


def in_torch(model, layer_type, modules):
    """PyTorch's layers with our weights, and the last norm."""
    params = jax.device_get(nnx.to_pure_dict(nnx.state(model)))
    layers = []
    for own in params["layers"].values():
        own = own | own["feed_forward"]
        state = {}
        for name, theirs in modules.items():
            values = attention_weights(own[name]) if "k_proj" in own[name] else as_in_torch(own[name])
            state |= {f"{theirs}.{key}": torch.tensor(value) for key, value in values.items()}
        layer = layer_type(D, HEADS, F, norm_first=True, batch_first=True).eval()
        layer.load_state_dict(state)
        layers.append(layer)
    norm = torch.nn.LayerNorm(D)
    norm.load_state_dict({k: torch.tensor(v) for k, v in as_in_torch(params["layer_norm"]).items()})
    return layers, norm


def waves(length: int) -> torch.Tensor:
    """As the public code writes them."""
    pe, position = torch.zeros(length, D), torch.arange(length)[:, None]
    div_term = torch.exp(torch.arange(0, D, 2, dtype=torch.float) * -(math.log(10000.0) / D))
    pe[:, 0::2], pe[:, 1::2] = torch.sin(position * div_term), torch.cos(position * div_term)
    return pe


@pytest.fixture(scope="module")
def sequences():
    """Source and target with noise after them, and their masks."""
    source, target = np.random.default_rng(0).normal(size=(2, 3, 9, D)).astype(np.float32)
    source_mask, target_mask = (
        np.arange(9) < np.array(lengths)[:, None] for lengths in ((9, 4, 1), (3, 9, 2))
    )
    return source, source_mask, target, target_mask


def test_encoder_states_equal_those_of_torch(sequences):
    source, mask, *_ = sequences
    ours = random_model(
        lambda: Encoder(LAYERS, HEADS, CONFIG, positions=SinusoidalPositions, rngs=nnx.Rngs(0))
    )
    layers, norm = in_torch(ours, torch.nn.TransformerEncoderLayer, ENCODER_MODULES)
    x = torch.tensor(source) + waves(9)
    for layer in layers:
        x = layer(x, src_key_padding_mask=torch.tensor(~mask))
    assert_close(np.asarray(ours(source, mask))[mask], norm(x).detach().numpy()[mask])


def test_decoder_states_equal_those_of_torch(sequences):
    source, source_mask, target, mask = sequences
    ours = random_model(
        lambda: Decoder(LAYERS, HEADS, CONFIG, positions=SinusoidalPositions, rngs=nnx.Rngs(0))
    )
    layers, norm = in_torch(ours, torch.nn.TransformerDecoderLayer, DECODER_MODULES)
    x, future = torch.tensor(target) + waves(9), torch.ones(9, 9, dtype=bool).triu(1)
    unseen = torch.tensor(~source_mask)
    for layer in layers:
        x = layer(x, torch.tensor(source), tgt_mask=future, memory_key_padding_mask=unseen)
    found = ours(target, mask, source, source_mask)
    assert_close(np.asarray(found)[mask], norm(x).detach().numpy()[mask])
