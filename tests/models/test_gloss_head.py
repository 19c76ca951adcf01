import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.gloss_head import GLOSS_HEADS, GlossHeadConfig
from tests.support.toy import assert_close, jit, random_model

T, C, GLOSSES = 6, 5, 4
CONFIG = GlossHeadConfig(d_model=8, ffn_dim=12, dropout=0.0)
X = np.random.default_rng(0).normal(size=(2, T, C)).astype(np.float32)


def make_head(kind: str):
    make = GLOSS_HEADS[kind]
    return random_model(lambda: make(CONFIG, C, GLOSSES, dtype=jnp.float32, rngs=nnx.Rngs(0)))


def test_the_conv_head_and_its_gradient_equal_pytorch() -> None:
    reference = pytest.importorskip("tests.support.gloss_head_reference")
    torch = reference.torch
    head = make_head("conv")
    twin = reference.ConvHead(C, CONFIG.d_model, CONFIG.ffn_dim, GLOSSES)
    twin.load(nnx.to_pure_dict(nnx.state(head)))
    x, weight = torch.tensor(X[0], requires_grad=True), np.float32([[1, -2, 3, 0.5]] * T)
    expected = twin(x)  # with the statistics of the one clip
    (expected * torch.tensor(weight)).sum().backward()

    def ours(params, rest, x):
        graphdef = nnx.split(head, nnx.Param, ...)[0]
        logits = nnx.merge(graphdef, params, rest, copy=True)(x[None], jnp.ones((1, T), bool))[0][0]
        return (logits * weight).sum(), logits

    _, params, rest = nnx.split(head, nnx.Param, ...)
    gradient = jit(jax.grad(ours, argnums=(0, 2), has_aux=True))
    (of_params, of_x), logits = gradient(params, rest, X[0])
    assert_close(np.asarray(logits), expected.detach().numpy(), 1e-5)
    assert_close(np.asarray(of_x), x.grad.numpy(), 1e-4)
    of_params = nnx.to_pure_dict(of_params)
    for name in ("project", "conv1", "conv2", "output"):
        theirs = getattr(twin, name).weight.grad.numpy().T
        assert_close(np.asarray(of_params[name]["kernel"]), theirs, 1e-4)


def test_the_bilstm_head_and_its_gradient_equal_torch_s_lstm_over_packed_clips() -> None:
    reference = pytest.importorskip("tests.support.gloss_head_reference")
    torch = reference.torch
    head, lengths = make_head("bilstm"), np.array([T, 3])
    twin = reference.BiLSTMHead(C, CONFIG.d_model, CONFIG.layers, GLOSSES)
    graphdef, params, rest = nnx.split(head, nnx.Param, ...)
    twin.load(nnx.to_pure_dict(params))
    x, weight = torch.tensor(X, requires_grad=True), np.float32([1, -2, 3, 0.5])
    mask = np.arange(T) < lengths[:, None]
    expected, feature = twin(x, torch.tensor(lengths))
    (expected * torch.tensor(weight * mask[..., None])).sum().backward()

    def ours(params, x):
        logits, feature = nnx.merge(graphdef, params, rest)(x, mask)
        return (logits * weight * mask[..., None]).sum(), (logits, feature)

    (of_params, of_x), found = jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(params, X)
    for one, other in zip(found, (expected, feature), strict=True):
        assert_close(np.asarray(one)[mask], other.detach().numpy()[mask], 1e-5)
    assert_close(np.asarray(of_x), x.grad.numpy(), 1e-4)
    for layer, directions in nnx.to_pure_dict(of_params)["layers"].items():
        for direction, suffix in enumerate(("", "_reverse")):
            cell = directions[direction]["cells"][0]
            for part, name in (("input", "ih"), ("recurrent", "hh")):
                theirs = getattr(twin.lstm, f"weight_{name}_l{layer}{suffix}").grad.numpy().T
                assert_close(np.asarray(cell[part]["kernel"]), theirs, 1e-4)
            assert_close(
                np.asarray(cell["input"]["bias"]), getattr(twin.lstm, f"bias_ih_l{layer}{suffix}").grad
            )


@pytest.mark.parametrize("kind", GLOSS_HEADS)
def test_the_padding_of_a_clip_changes_nothing(kind: str) -> None:
    head = nnx.view(make_head(kind), deterministic=True, use_running_average=True, raise_if_not_found=False)
    mask = np.arange(T) < np.array([[T], [3]])
    apply = jit(lambda x, mask: head(x, mask)[0])
    together = apply(X, mask)
    alone = apply(X[1:, :3], mask[1:, :3])
    noisy = apply(np.where(mask[..., None], X, 9), mask)
    np.testing.assert_allclose(together[1, :3], alone[0], atol=1e-5)
    np.testing.assert_allclose(together[mask], noisy[mask], atol=1e-5)
