import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.stages import OptimConfig
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.training.optimizer import make_optimizer
from sslssaw_jax.types import TrainState
from tests.support.toy import toy_batch

STEPS = 6
SHAPES = {"kernel": (3, 4), "bias": (4,)}


def train_here(config: OptimConfig, params: dict, grads: list[dict]) -> dict:
    optimizer, _ = make_optimizer(config, STEPS)
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


def train_in_torch(config: OptimConfig, params: dict, grads: list[dict]) -> dict:
    torch = pytest.importorskip("torch")
    _, schedule = make_optimizer(config, STEPS)
    tensors = {key: torch.tensor(value, requires_grad=True) for key, value in params.items()}
    if config.name == "sgd":
        optimizer = torch.optim.SGD(
            tensors.values(), lr=1.0, momentum=config.momentum, weight_decay=config.weight_decay
        )
    elif config.name == "adam":
        optimizer = torch.optim.Adam(
            tensors.values(), lr=1.0, betas=(config.b1, config.b2), weight_decay=config.weight_decay
        )
    else:
        groups = [
            {"params": [tensors["kernel"]], "weight_decay": config.weight_decay},
            {"params": [tensors["bias"]], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(config.b1, config.b2))
    for step, grad in enumerate(grads):
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(grad[key])
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(tensors.values(), config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = float(schedule(step))
        optimizer.step()
    return {key: tensor.detach().numpy() for key, tensor in tensors.items()}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_parameters_move_as_in_torch(name, clip_norm):
    config = OptimConfig(
        name=name, learning_rate=0.05, warmup_steps=2, weight_decay=0.3, clip_norm=clip_norm, momentum=0.8
    )
    rng = np.random.default_rng(0)
    params, *grads = (
        {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}
        for _ in range(1 + STEPS)
    )
    ours, theirs = train_here(config, params, grads), train_in_torch(config, params, grads)
    for key in SHAPES:
        assert np.abs(ours[key] - params[key]).max() > 1e-2
        np.testing.assert_allclose(ours[key], theirs[key], atol=2e-6)


@pytest.mark.parametrize(("name", "decays_biases"), [("sgd", True), ("adamw", False)])
def test_weight_decay_reaches_the_biases_of_a_module_only_under_sgd(name, decays_biases):
    params = nnx.state(nnx.Linear(3, 4, bias_init=nnx.initializers.ones, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer, _ = make_optimizer(OptimConfig(name=name, weight_decay=0.5), STEPS)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    assert np.all(np.asarray(updates.kernel[...]) != 0)
    assert np.all((np.asarray(updates.bias[...]) != 0) == decays_biases)


def test_the_schedule_rises_to_the_peak_and_ends_at_the_final_rate():
    config = OptimConfig(learning_rate=0.2, final_learning_rate=1e-3, warmup_steps=10)
    _, schedule = make_optimizer(config, 110)
    rates = np.array([schedule(step) for step in range(130)])
    assert rates[0] == 0
    np.testing.assert_allclose(rates[[5, 10, 60, 110, 129]], [0.1, 0.2, 0.1005, 1e-3, 1e-3], rtol=1e-5)
    assert np.all(np.diff(rates[:11]) > 0) and np.all(np.diff(rates[10:111]) < 0)


def test_without_warm_up_the_first_step_takes_the_full_rate():
    _, schedule = make_optimizer(OptimConfig(learning_rate=0.2), 5)
    assert float(schedule(0)) == pytest.approx(0.2)


def test_a_warm_up_as_long_as_the_stage_is_an_error():
    config = dataclasses.replace(OptimConfig(), warmup_steps=100)
    with pytest.raises(ConfigError, match=r"optim.warmup_steps is 100; the stage has 100 steps"):
        make_optimizer(config, 100)


def test_the_average_forgets_its_beginning_and_then_decays_as_asked():
    """Expect the first step to replace the initial average altogether."""

    def loss(model, batch, key, counts):
        return model.kernel[...].sum(), {}

    graphdef, params, _ = nnx.split(nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0)), nnx.Param, ...)
    optimizer = optax.sgd(1.0)
    garbage = jax.tree.map(lambda x: x + 100.0, params)
    state = TrainState(jnp.zeros((), jnp.int32), params, nnx.State({}), optimizer.init(params), garbage)
    step = jax.jit(partial(train_step, graphdef=graphdef, loss=loss, optimizer=optimizer, ema_decay=0.9))
    batch = toy_batch(0)
    averages, values = [], []
    for _ in range(120):
        state, _ = step(state, batch, jax.random.key(0))
        values.append(float(state.params["kernel"][...][0, 0]))
        averages.append(float(state.eval_params["kernel"][...][0, 0]))
    assert averages[0] == values[0]
    np.testing.assert_allclose(averages[1], (values[0] + 10 * values[1]) / 11, rtol=1e-6)
    np.testing.assert_allclose(averages[-1], 0.9 * averages[-2] + 0.1 * values[-1], rtol=1e-6)
