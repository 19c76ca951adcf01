import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sslssaw_jax.checkpointing import Checkpointer, CheckpointError, restore_params
from sslssaw_jax.types import TrainState


class Model(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, width, rngs=rngs)


def make_state(step: int = 0, width: int = 3, seed: int = 0) -> TrainState:
    model = Model(width, nnx.Rngs(seed))
    params, batch_stats = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
    opt_state = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(params)
    noisy = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(seed), x.shape, x.dtype), batch_stats)
    return TrainState(step=jnp.int32(step), params=params, batch_stats=noisy, opt_state=opt_state)


def save(checkpointer: Checkpointer, step: int, metric: float | None = None, **kwargs) -> bool:
    return checkpointer.save(make_state(step), data={}, meta={}, metric=metric, **kwargs)


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("abstract", [False, True])
def test_restored_state_is_bit_equal_and_of_the_same_types(tmp_path, abstract):
    state = make_state(step=7)
    data, meta = {"next_index": 12, "epoch": 3}, {"config": {"name": "demo"}}
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.save(state, data=data, meta=meta)
    template = make_state(seed=1)
    if abstract:
        template = jax.eval_shape(lambda: template)
    with Checkpointer(tmp_path) as checkpointer:
        restored, restored_data, restored_meta = checkpointer.restore(template)
    assert_same(restored, state)
    assert (restored_data, restored_meta) == (data, meta)


def test_restored_arrays_take_the_sharding_of_the_template(tmp_path):
    state = make_state(step=1)
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec())
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(jax.device_put(state, sharding), data={}, meta={})
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
        restored, _, _ = checkpointer.restore(template)
    assert_same(restored, state)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored))


def test_nothing_saved_restores_nothing(tmp_path):
    with Checkpointer(tmp_path / "new") as checkpointer:
        assert checkpointer.restore(make_state()) is None
        assert checkpointer.latest_step is None
        assert checkpointer.best_step is None


def test_the_latest_and_the_best_are_kept(tmp_path):
    with Checkpointer(tmp_path, keep_latest=2, keep_best=1) as checkpointer:
        for step, metric in [(1, 10.0), (2, 30.0), (3, None), (4, 20.0), (5, None), (6, None)]:
            save(checkpointer, step, metric)
        checkpointer.wait()
        assert (checkpointer.best_step, checkpointer.latest_step) == (2, 6)
    assert {path.name for path in tmp_path.iterdir()} == {"2", "5", "6"}
    with Checkpointer(tmp_path) as reopened:
        assert (reopened.best_step, reopened.latest_step) == (2, 6)
        assert int(reopened.restore(make_state())[0].step) == 6
        assert int(reopened.restore(make_state(), step=2)[0].step) == 2


def test_a_step_is_saved_once_unless_forced(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        assert save(checkpointer, 1)
        assert not save(checkpointer, 1, metric=5.0)
        assert checkpointer.best_step is None
        assert save(checkpointer, 1, metric=5.0, force=True)
        assert checkpointer.best_step == 1
        assert int(checkpointer.restore(make_state())[0].step) == 1


def test_donated_buffers_and_changed_notes_do_not_reach_a_save_in_flight(tmp_path):
    noise = np.random.default_rng(0).standard_normal(2**22, np.float32)  # incompressible: slow to write
    state = TrainState(jnp.int32(1), {"w": jnp.array(noise)}, {}, {})
    overwrite = jax.jit(lambda s: s.replace(params={"w": s.params["w"] * 0 - 1}), donate_argnums=0)
    data = {"next_index": 1}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, data=data, meta={})
        data["next_index"] = 2
        for _ in range(3):
            state = overwrite(state)
        restored, restored_data, _ = checkpointer.restore(state)
    np.testing.assert_array_equal(restored.params["w"], noise)
    assert restored_data == {"next_index": 1}


def test_another_model_is_one_error_with_names_and_shapes(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1)
        with pytest.raises(CheckpointError) as error:
            checkpointer.restore(make_state(width=5))
    message = str(error.value)
    assert "params.head.kernel: saved float32[4, 3], the model has float32[4, 5]" in message
    assert "layers" not in message
    assert message.index("params.head.bias") < message.index("opt_state")


def test_another_optimiser_is_an_error(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1)
        state = make_state()
        with pytest.raises(CheckpointError, match=r"opt_state.*the model has nothing"):
            checkpointer.restore(state.replace(opt_state=optax.sgd(0.1).init(state.params)))


def test_a_missing_step_is_an_error_that_lists_the_saved_ones(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 3)
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 9; saved: \[3\]"):
            checkpointer.restore(make_state(), step=9)


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1)
    half = tmp_path / "2.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    (half / "state" / "_METADATA").write_text("{")
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step == 1
        assert int(checkpointer.restore(make_state())[0].step) == 1
        assert save(checkpointer, 2)
    assert not half.exists()


def test_keeping_no_latest_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep_latest"):
        Checkpointer(tmp_path, keep_latest=0)


@pytest.mark.parametrize(("best", "step"), [(False, 2), (True, 1)])
def test_params_initialise_another_model_without_a_template(tmp_path, best, step):
    states = {step: make_state(step, seed=step) for step in (1, 2)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(states[1], data={}, meta={"step": 1}, metric=2.0)
        checkpointer.save(states[2], data={}, meta={"step": 2}, metric=1.0)
    params, batch_stats, meta = restore_params(tmp_path, best=best)
    other = make_state(seed=5)
    nnx.replace_by_pure_dict(other.params, params)
    nnx.replace_by_pure_dict(other.batch_stats, batch_stats)
    assert_same(other.params, states[step].params)
    assert_same(other.batch_stats, states[step].batch_stats)
    assert meta == {"step": step}


def test_params_of_an_empty_or_missing_directory_are_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        restore_params(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        restore_params(tmp_path / "absent")
