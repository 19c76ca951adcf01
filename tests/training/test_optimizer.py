import dataclasses
from functools import partial
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.stages import OptimConfig
from sslssaw_jax.stages.rate_factors import check_rate_factors
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.training.optimizer import make_optimizer, plateau_factor
from sslssaw_jax.types import TrainState
from tests.support.toy import toy_batch

STEPS = 6
NAMES = get_args(get_type_hints(OptimConfig)["name"])
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
    groups = [
        {"params": [tensors["kernel"]], "weight_decay": config.weight_decay},
        {"params": [tensors["bias"]], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        optimizer = torch.optim.SGD(
            tensors.values(), lr=1.0, momentum=config.momentum, weight_decay=config.weight_decay
        )
    elif config.name == "nesterov":
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=config.momentum, nesterov=True)
    elif config.name == "adam":
        optimizer = torch.optim.Adam(
            tensors.values(), lr=1.0, betas=(config.b1, config.b2), weight_decay=config.weight_decay
        )
    else:
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


@pytest.mark.parametrize("name", NAMES)
def test_parameters_move_as_in_torch(name):
    config = OptimConfig(name=name, learning_rate=0.05, warmup_steps=2, weight_decay=0.3, momentum=0.8)
    rng = np.random.default_rng(0)
    params, *grads = (
        {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}
        for _ in range(1 + STEPS)
    )
    ours, theirs = train_here(config, params, grads), train_in_torch(config, params, grads)
    for key in SHAPES:
        assert np.abs(ours[key] - params[key]).max() > 1e-2
        np.testing.assert_allclose(ours[key], theirs[key], atol=2e-6)


@pytest.mark.parametrize(("name", "decays_biases"), [("sgd", True), ("nesterov", False), ("adamw", False)])
def test_weight_decay_reaches_the_biases_of_a_module_only_under_plain_sgd(name, decays_biases):
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


def torch_rates(make, epochs, steps_of_epoch=1, scores=None):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler, rates = make(torch.optim.lr_scheduler, optimizer), []
    for epoch in range(epochs):
        rates += [optimizer.param_groups[0]["lr"]] * steps_of_epoch
        optimizer.step()
        scheduler.step(*([] if scores is None else [scores[epoch]]))
    return rates


@pytest.mark.parametrize("schedule", ["cosine", "steps", "constant"])
def test_the_rates_are_those_of_torch(schedule):
    milestones = (2, 3, 9) if schedule == "steps" else ()
    config = OptimConfig(
        schedule=schedule, learning_rate=0.2, final_learning_rate=1e-3, milestones=milestones, factor=0.2
    )
    make, steps_of_epoch = {
        "cosine": (lambda torch, optimizer: torch.CosineAnnealingLR(optimizer, 20, 1e-3), 1),
        "steps": (lambda torch, optimizer: torch.MultiStepLR(optimizer, milestones, 0.2), 4),
        "constant": (lambda torch, optimizer: torch.ConstantLR(optimizer, 1.0), 1),
    }[schedule]
    expected = torch_rates(make, 20 // steps_of_epoch, steps_of_epoch)
    _, rates = make_optimizer(config, 20, epoch_ends=[4, 8, 12, 16, 20])
    np.testing.assert_allclose([float(rates(step)) for step in range(20)], expected, rtol=1e-5)
    _, warming = make_optimizer(dataclasses.replace(config, warmup_steps=2), 20, [4, 8, 12, 16, 20])
    np.testing.assert_allclose([float(warming(step)) for step in range(3)], [0, 0.1, 0.2], rtol=1e-6)


def test_a_plateau_lowers_the_rate_where_torch_does():
    scores = np.random.default_rng(0).integers(0, 12, 60).astype(float)
    config = OptimConfig(schedule="plateau", learning_rate=0.2, factor=0.7, patience=2)

    def plateau(torch, optimizer):
        return torch.ReduceLROnPlateau(optimizer, "max", 0.7, 2, threshold=0, eps=0)

    ours = [0.2 * plateau_factor(config, scores[:seen]) for seen in range(60)]
    np.testing.assert_allclose(ours, torch_rates(plateau, 60, scores=scores), rtol=1e-9)
    assert len(set(ours)) > 10


@pytest.mark.parametrize("name", NAMES)
def test_a_module_s_factor_is_torch_s_rate_of_a_group_and_0_leaves_it_out(name):
    torch = pytest.importorskip("torch")
    config = OptimConfig(name=name, learning_rate=0.05, weight_decay=0.3, clip_norm=0.5, schedule="constant")
    config = dataclasses.replace(config, groups=("video=0", "video.cnn=0.1", "video.cnn.bias=0.5"))
    rng = np.random.default_rng(0)

    def draw():
        leaves = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
        return {key: np.float32(value) for key, value in leaves.items()}

    params, *grads = ({"head": draw(), "video": {"cnn": draw(), "project": draw()}} for _ in range(5))
    for grad in grads:
        grad["video"]["project"] = jax.tree.map(np.zeros_like, grad["video"]["project"])  # as in the step
    ours = train_here(config, params, grads)

    rates = {("head", "kernel"): 1.0, ("head", "bias"): 1.0}
    rates |= {("video", "cnn", "kernel"): 0.1, ("video", "cnn", "bias"): 0.5}

    def at(tree, path):
        for part in path:
            tree = tree[part]
        return tree

    tensors = {path: torch.tensor(at(params, path), requires_grad=True) for path in rates}
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(name, torch.optim.SGD)
    more = {"betas": (config.b1, config.b2)}
    if name in ("sgd", "nesterov"):
        more = {"momentum": config.momentum, "nesterov": name == "nesterov"}
    groups = [
        {
            "params": [tensors[path]],
            "lr": 0.05 * rate,
            "weight_decay": 0.0 if name in ("nesterov", "adamw") and path[-1] == "bias" else 0.3,
        }
        for path, rate in rates.items()
    ]
    optimizer = make(groups, **more)
    for grad in grads:
        for path, value in tensors.items():
            value.grad = torch.tensor(at(grad, path))
        torch.nn.utils.clip_grad_norm_(tensors.values(), 0.5)
        optimizer.step()
    for path, value in tensors.items():
        np.testing.assert_allclose(at(ours, path), value.detach().numpy(), atol=2e-6)
    frozen = params["video"]["project"]
    jax.tree.map(np.testing.assert_array_equal, ours["video"]["project"], frozen)
    state = make_optimizer(config, STEPS)[0].init(params)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
    assert any("cnn" in path for path in paths) and not any("project" in path for path in paths)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": ("video.cnn:0.1",)}, "groups has 'video.cnn:0.1'; it must be PATH=FACTOR"),
        ({"groups": ("cnn=1", "cnn=2")}, "has a path twice"),
        ({"schedule": "steps"}, "'steps', and it alone, needs"),
        ({"milestones": (3,)}, "'steps', and it alone, needs"),
    ],
)
def test_settings_of_a_schedule_or_group_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**settings)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"video.cn": 0}, "has 'video.cn'; video has cnn, project"),
        ({"vide": 0}, "has 'vide'; the model has head, video"),
        ({"head.kernel.x": 0}, "has 'head.kernel.x'; head has kernel"),
        ({"head": 0, "video": 0}, "freezes the whole model"),
    ],
)
def test_a_group_that_is_not_in_the_model_is_refused_with_those_that_are(groups, message):
    params = {"head": {"kernel": 0}, "video": {"cnn": {"kernel": 0}, "project": {"kernel": 0}}}
    check_rate_factors({"video.cnn": 0.0, "head": 1.0}, params)
    check_rate_factors({"features.cnn": 0.0}, params, ["features", "head", "video"])  # features are stored
    with pytest.raises(ConfigError, match=message):
        check_rate_factors(groups, params, ["features", "head", "video"])


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
