"""What remains float32 when the products are bfloat16, read from the traced programs."""

from collections.abc import Iterator
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from sslssaw_jax.models.precision import Embed, compute_dtype
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.systems import SYSTEMS
from tests.support.toy import (
    TOY_GLOSSES,
    VOCAB_SIZE,
    batch_for,
    loss_of,
    make_stages,
    pretrain_stage,
    toy_batch,
    toy_config,
    toy_system,
    training_batch,
    translate_stage,
)

STAGES = (pretrain_stage, translate_stage)
# softmax and losses (exp, log), norms (rsqrt), sums: in means, statistics and losses
STATISTICS = {"exp", "exp2", "log", "log1p", "logistic", "rsqrt", "sqrt", "reduce_sum", "cumsum"}
KEY = jax.random.key(0)


@cache
def make(stage, **changes) -> tuple[Stage, nnx.State, nnx.State]:
    made = stage(toy_config(**{"compute.dtype": "bfloat16"} | changes), VOCAB_SIZE)
    state = jax.eval_shape(partial(made.init, optimizer=optax.sgd(1.0, 0.9), averaged=True), KEY)
    return made, state


def equations(jaxpr) -> Iterator:
    """Every equation, including those of inner programs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@cache
def forward(stage, **changes) -> list:
    """All equations of a stage's loss, traced once for all tests."""
    made, state = make(stage, **changes)

    def loss(params, batch_stats, batch):
        return loss_of(made, nnx.merge(made.train_def, params, batch_stats, copy=True), batch, KEY)[0]

    return list(equations(jax.make_jaxpr(loss)(state.params, state.batch_stats, toy_batch(0)).jaxpr))


@pytest.mark.parametrize("stage", STAGES)
def test_softmax_losses_and_statistics_are_float32_and_products_bfloat16(stage):
    found = forward(stage)
    formats = {name: set() for name in STATISTICS | {"dot_general", "conv_general_dilated"}}
    for equation in found:
        name = equation.primitive.name
        if name in formats:
            formats[name] |= {
                x.aval.dtype.name for x in equation.invars if x.aval.dtype.name.startswith(("f", "b"))
            }
    assert {name for name in STATISTICS if "bfloat16" in formats[name]} == set()
    assert {"exp", "log", "rsqrt", "reduce_sum"} <= {
        name for name in STATISTICS if "float32" in formats[name]
    }
    assert formats["conv_general_dilated"] == {"bfloat16"}
    assert "bfloat16" in formats["dot_general"]


@pytest.mark.parametrize("stage", STAGES)
def test_state_metrics_and_logits_are_float32(stage):
    made, state = make(stage)
    step = partial(train_step, graphdef=made.train_def, loss=made.loss, optimizer=optax.sgd(1.0, 0.9))
    after = jax.eval_shape(step, state, toy_batch(0), KEY)
    formats = {leaf.dtype for leaf in jax.tree.leaves(after) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert formats == {jnp.dtype("float32")}
    logits = [
        e
        for e in forward(stage)
        if e.primitive.name == "dot_general" and e.outvars[0].aval.shape[-1] == VOCAB_SIZE
    ]
    assert logits and all(e.outvars[0].aval.dtype == jnp.float32 for e in logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "changes"),
    [*((system, {}) for system in sorted(SYSTEMS)), ("ssl_ssaw", {"model.fusion.kind": "lstm"})],
)
def test_logits_gates_and_sums_of_every_system_are_float32(system, changes):
    config = toy_system(system, **{"compute.dtype": "bfloat16"} | changes)
    made = make_stages(config)[-1]
    state = jax.eval_shape(partial(made.init, optimizer=optax.sgd(1.0)), KEY)

    def loss(params, batch_stats, batch):
        return loss_of(made, nnx.merge(made.train_def, params, batch_stats, copy=True), batch, KEY)[0]

    batch = training_batch(config, batch_for(config, toy_batch(0)))
    found = list(equations(jax.make_jaxpr(loss)(state.params, state.batch_stats, batch).jaxpr))
    rough = {e.primitive.name for e in found if any(x.aval.dtype == jnp.bfloat16 for x in e.invars)}
    assert rough & STATISTICS == set()
    assert "dot_general" in rough
    products = [e.outvars[0].aval for e in found if e.primitive.name == "dot_general"]
    sizes = (VOCAB_SIZE, TOY_GLOSSES.size)
    logits = [each for each in products if each.shape[-1] in sizes and each.ndim < 4]  # no attention
    assert logits and all(each.dtype == jnp.float32 for each in logits)


@pytest.mark.parametrize("stage", STAGES)
def test_remat_wraps_every_block_in_training_alone(stage):
    """The tests on eight devices show that it changes no number."""

    def wrapped(remat: bool) -> int:
        return sum(
            e.primitive.name in ("checkpoint", "remat2")
            for e in forward(stage, **({"compute.remat": True} if remat else {}))
        )

    # stem and block of the ResNet, encoder, decoder; in stage 1 the text tower's encoder, too
    assert (wrapped(False), wrapped(True)) == (0, 5 if stage is pretrain_stage else 4)


def test_gradients_of_a_frequent_token_are_summed_in_float32():
    embed = Embed(3, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    ids, weight = jnp.zeros(1000, jnp.int32), jax.random.normal(KEY, (1000, 2), jnp.bfloat16)

    def loss(embed):
        looked_up = embed(ids)
        assert looked_up.dtype == jnp.bfloat16
        return (looked_up * weight).astype(jnp.float32).sum()

    gradient = nnx.grad(loss)(embed).embedding[...]
    assert jnp.allclose(gradient[0], weight.astype(jnp.float32).sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("platform", "capability", "dtype"),
    [
        ("cpu", None, "float32"),
        ("tpu", None, "bfloat16"),
        ("gpu", "7.5", "float32"),  # T4
        ("gpu", "8.0", "bfloat16"),
        ("gpu", "12.0", "bfloat16"),
        ("gpu", "gfx906", "float32"),
        ("gpu", "gfx90a", "bfloat16"),  # AMD names its capabilities
        ("gpu", "gfx1030", "float32"),
        ("gpu", "gfx1100", "bfloat16"),
    ],
)
def test_bfloat16_is_taken_where_the_hardware_has_it(platform, capability, dtype, monkeypatch):
    device = SimpleNamespace(platform=platform, **{"compute_capability": capability} if capability else {})
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert compute_dtype("auto") == dtype
