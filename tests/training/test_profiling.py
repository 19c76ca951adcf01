from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslssaw_jax.training.profiling import CountedStep, peak_flops


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
    traces = []

    def step(state, x):
        traces.append(x)
        return state + x @ x.T, None

    counted = CountedStep(jax.jit(step, donate_argnums=0))
    x = jnp.arange(12.0).reshape(3, 4)
    state = jnp.zeros((3, 3))
    for _ in range(2):
        state, _ = counted(state, x)
    np.testing.assert_array_equal(state, 2 * x @ x.T)
    assert len(traces) == 1
    assert counted.flops == 2 * 3 * 3 * 4 + 3 * 3
    counted(state, jnp.ones((3, 5)))  # a batch of another length
    assert len(traces) == 2
    assert counted.flops == 2 * 3 * 3 * 5 + 3 * 3
