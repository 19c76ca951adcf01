import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.gloss_attention import NEIGHBOURS, GlossAttention
from tests.support.pytorch import torch
from tests.support.toy import assert_close, random_model

D, HEADS, LENGTHS = 8, 2, (9, 1, 4, 2)
KINDS = ["gloss", "gloss_grid_sample"]


@pytest.fixture(scope="module")
def sequences() -> tuple[np.ndarray, np.ndarray]:
    """Sequences of several lengths, with noise after them, and their masks."""
    states = np.random.default_rng(0).normal(size=(len(LENGTHS), max(LENGTHS) + 2, D)).astype(np.float32)
    return states, np.arange(states.shape[1]) < np.array(LENGTHS)[:, None]


def attention_and_gradients(kind, sequences, weight):
    """The output, and the gradient of its weighted sum by states and parameters."""
    layer = random_model(
        lambda: GlossAttention(
            D, HEADS, 0.0, grid_sample=kind == "gloss_grid_sample", dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
    )
    graphdef, params = nnx.split(layer)
    states, mask = sequences

    def total(states, params):
        layer = nnx.merge(graphdef, params)
        attended = layer(states, layer.keys_values(states), mask[:, None], None)
        return (attended * weight * mask[..., None]).sum(), attended

    gradients, attended = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(states, params)
    return attended, gradients[0], nnx.to_pure_dict(gradients[1]), nnx.to_pure_dict(params)


def interpolated(x, place):
    """Values of x [T, K] at places [Q, N]: [Q, N, K]; after the last comes the first."""
    left = place.detach().floor().long() % len(x)
    share = (place - place.detach().floor())[..., None]
    return x[left] * (1 - share) + x[(left + 1) % len(x)] * share


def grid_sampled(x, place):
    """As the public code calls it: the second axis of the picture has size 1, and 1 is its edge."""
    x_place = place / max(len(x) - 1, 1) * 2 - 1
    grid = torch.stack([x_place, torch.ones_like(place)], -1)[None]
    picture = x.T[None, :, None]  # [1, K, 1, T]
    return torch.nn.functional.grid_sample(picture, grid, align_corners=False)[0].permute(1, 2, 0)


def attention_in_torch(kind, states, params):
    """The attention in one clip without padding, head by head."""

    def linear(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    length, size = len(states), D // HEADS
    query, key, value = (linear(name, states) for name in ("q_proj", "k_proj", "v_proj"))
    offsets = linear("offsets", query).reshape(length, HEADS, len(NEIGHBOURS))
    sample, period = (interpolated, length) if kind == "gloss" else (grid_sampled, max(length - 1, 1))
    heads = []
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        place = torch.arange(length)[:, None] + torch.arange(-4, 3) + offsets[:, head]
        keys, values = (sample(x[:, own], place % period) for x in (key, value))
        weights = torch.softmax((query[:, None, own] * keys).sum(-1) / size**0.5, -1)
        heads.append((weights[..., None] * values).sum(1))
    return linear("out_proj", torch.cat(heads, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_attention_in_a_padded_batch_and_its_gradient_equal_torch_on_each_clip_alone(kind, sequences):
    weight = np.random.default_rng(1).normal(size=sequences[0].shape).astype(np.float32)
    attended, by_states, by_params, params = attention_and_gradients(kind, sequences, weight)
    theirs = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), params)
    for row, length in enumerate(LENGTHS):
        own = torch.tensor(sequences[0][row, :length], requires_grad=True)
        expected = attention_in_torch(kind, own, theirs)
        (expected * torch.tensor(weight[row, :length])).sum().backward()
        assert_close(attended[row, :length], expected.detach().numpy())
        assert_close(by_states[row, :length], own.grad.numpy(), 1e-4)
        assert not by_states[row, length:].any()
    # in the clean version the gradient of the keys' bias is zero except for rounding
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y.grad, rtol=1e-4, atol=1e-4), by_params, theirs)
    assert all(np.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(by_params["offsets"]))  # they learn
