from contextlib import nullcontext
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sslssaw_jax.models.cpu_gradients import convolve
from sslssaw_jax.training.profiling import CountedStep, count_flops, peak_flops


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla T4", 65),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 0),  # no A10
        ("cpu", 0),
    ],
)
def test_known_devices_have_their_peak_and_others_none(kind, tflops, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert peak_flops(0.0) == 2e12 * tflops
    assert peak_flops(7.5) == 15e12


def test_a_step_is_traced_once_and_its_products_are_counted():
    traces, told = [], []

    def step(state, x):
        traces.append(x)
        return state + x @ x.T, None

    def compiling(x):
        told.append(x.shape)
        return nullcontext()

    counted = CountedStep(jax.jit(step, donate_argnums=0), compiling)
    x = jnp.arange(12.0).reshape(3, 4)
    state = jnp.zeros((3, 3))
    for _ in range(2):
        state, _ = counted(state, x)
    np.testing.assert_array_equal(state, 2 * x @ x.T)
    assert len(traces) == 1
    assert counted.flops == 2 * 3 * 3 * 4
    counted(state, jnp.ones((3, 5)))  # a batch of another length
    assert len(traces) == 2
    assert counted.flops == 2 * 3 * 3 * 5
    assert told == [(3, 4), (3, 5)]


def flops_of(function, *arrays):
    return count_flops(jax.make_jaxpr(function)(*arrays))


def test_a_loop_counts_each_time_and_of_branches_the_first_counts():
    square = jnp.ones((4, 4))

    def body(x, _):
        return lax.cond(x[0, 0] > 0, lambda: x, lambda: x @ square), None

    product = 2 * 4**3
    assert flops_of(lambda x: lax.scan(body, x, None, length=5)[0], square) == 5 * product
    assert flops_of(jax.checkpoint(jax.jit(lambda x: x @ x)), square) == product


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 32])  # kernel gradients are of two kinds
def test_a_convolution_and_each_of_its_gradients_count_alike(stride, side):
    x, kernel = jnp.ones((2, side, side, 3)), jnp.ones((3, 3, 3, 5))

    def loss(x, kernel):
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 1}
        return (convolve(x, kernel, (stride, stride), ((1, 1), (1, 1)), **options) ** 2).sum()

    once = 2 * 2 * (side // stride) ** 2 * 9 * 3 * 5
    assert flops_of(loss, x, kernel) == once
    assert flops_of(jax.grad(loss, argnums=(0, 1)), x, kernel) == 3 * once
