import hashlib
import math
import os
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sslssaw_jax.data.dataset import file_digest
from sslssaw_jax.training import checkpoints
from sslssaw_jax.training.checkpoints import Checkpointer, CheckpointError, restore_params
from sslssaw_jax.types import BLEU_4, LOSS, WER, SelectionMetric, TrainState
from sslssaw_jax.workdir import saved_steps, write_json

LOWEST = SelectionMetric("bleu4", higher_is_better=False)


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


def save(checkpointer: Checkpointer, step: int, score: float | None = None) -> None:
    checkpointer.save(make_state(step, seed=step), data={}, meta={"step": step})
    if score is not None:
        checkpointer.add_scores(step, {"bleu4": score})


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
        checkpointer.save(state, data=data, meta=meta)
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


def test_the_latest_and_the_best_are_kept(tmp_path):
    with Checkpointer(tmp_path, keep_latest=2, keep_best=1) as checkpointer:
        for step, score in [(1, 10.0), (2, 30.0), (3, None), (4, 20.0), (5, None), (6, None)]:
            save(checkpointer, step, score)
    assert saved_steps(tmp_path) == [2, 5, 6]
    with Checkpointer(tmp_path) as reopened:
        assert restore_params(tmp_path, best_by=BLEU_4)[2] == {"step": 2}
        assert int(reopened.restore(make_state())[0].step) == 6


def test_a_lower_loss_or_word_error_rate_is_better_and_a_higher_bleu():
    for selection, better, worse in ((LOSS, 1, 2), (WER, 1, 2), (BLEU_4, 2, 1)):
        assert selection.quality({selection.name: better}) > selection.quality({selection.name: worse})


def test_a_step_is_saved_once(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 2)
        for step in (2, 1):
            with pytest.raises(CheckpointError, match=f"a checkpoint of step {step} or of a later one"):
                save(checkpointer, step)


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


def test_scores_behind_the_restored_step_are_forgotten(tmp_path):
    with Checkpointer(tmp_path, keep_latest=9) as checkpointer:
        for step in (1, 2, 3):
            save(checkpointer, step, score=float(step))
    shutil.rmtree(tmp_path / "3")
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.restore(make_state())
        assert checkpointer.scores == {1: {"bleu4": 1.0}, 2: {"bleu4": 2.0}}


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGES = {
    "no folder of arrays": lambda step: shutil.rmtree(step / "state"),
    "no list of arrays": lambda step: (step / "state" / "_METADATA").unlink(),
    "an array's data are missing": lambda step: largest_file(step / "state" / "ocdbt.process_0").unlink(),
    "a file of arrays is cut short": lambda step: os.truncate(
        path := largest_file(step / "state" / "ocdbt.process_0"), path.stat().st_size // 2
    ),
    "no notes": lambda step: shutil.rmtree(step / "meta"),
    "half a position": lambda step: os.truncate(step / "data" / "metadata", 1),
    "a digest of a file elsewhere": lambda step: write_json(
        step / "state" / "digests.json", {"../data/digests.json": file_digest(step / "data" / "digests.json")}
    ),
    "a digest of a device": lambda step: (
        (step / "state" / "endless").symlink_to("/dev/null"),
        write_json(step / "state" / "digests.json", {"endless": hashlib.sha256().hexdigest()}),
    ),
    "empty folder": lambda step: (shutil.rmtree(step), step.mkdir()),
}


def save_large(directory: Path, *steps: int) -> TrainState:
    """Save a state whose arrays are large enough for files of their own."""
    noise = np.random.default_rng(0).standard_normal((2**16,), np.float32)
    state = make_state().replace(params={"w": jnp.asarray(noise)})
    with Checkpointer(directory, keep_latest=9) as checkpointer:
        for step in steps:
            checkpointer.save(state.replace(step=jnp.int32(step)), data={}, meta={"step": step})
    return state


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a folder of three whole checkpoints, and their state."""
    folder = tmp_path_factory.mktemp("large")
    return folder, save_large(folder, 1, 2, 3)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_for_the_one_before(tmp_path, damage, large, capfd):
    folder, state = large
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "3")
    with pytest.warns(UserWarning, match=r"3 is damaged.*using step 2 instead"):
        assert restore_params(tmp_path)[2] == {"step": 2}
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.warns(UserWarning, match=r"step 3 is damaged.*3\.damaged, and continuing from step 2"):
            restored, _, meta = checkpointer.restore(state)
        assert_same(restored.params, state.params)
        assert (int(restored.step), meta) == (2, {"step": 2})
        checkpointer.save(state.replace(step=jnp.int32(3)), data={}, meta={"step": 4})
    assert restore_params(tmp_path)[2] == {"step": 4}
    assert (tmp_path / "3.damaged").is_dir()
    assert "Traceback" not in capfd.readouterr().err


def test_the_best_of_the_whole_ones_is_taken(tmp_path):
    with Checkpointer(tmp_path, keep_latest=9) as checkpointer:
        for step, score in [(1, 5.0), (2, 9.0), (3, 1.0)]:
            save(checkpointer, step, score)
    DAMAGES["no notes"](tmp_path / "2")
    with pytest.warns(UserWarning, match="damaged"):
        assert restore_params(tmp_path, best_by=BLEU_4)[2] == {"step": 1}


def test_only_damaged_checkpoints_are_an_error_that_changes_nothing(tmp_path):
    state = save_large(tmp_path, 1, 2)
    for step in ("1", "2"):
        DAMAGES["a file of arrays is cut short"](tmp_path / step)
    with pytest.raises(CheckpointError, match=r"every checkpoint.*\n  step 2: .*\n  step 1: "):
        restore_params(tmp_path)
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError, match="every checkpoint"):
        checkpointer.restore(state)
    assert saved_steps(tmp_path) == [1, 2]


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


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1)
    half = tmp_path / "2.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    (half / "state" / "_METADATA").write_text("{")
    with Checkpointer(tmp_path) as checkpointer:
        assert saved_steps(tmp_path) == [1]
        assert int(checkpointer.restore(make_state())[0].step) == 1
        save(checkpointer, 2)
    assert not half.exists()


@pytest.mark.parametrize(("best_by", "step"), [(None, 3), (BLEU_4, 1), (LOWEST, 2)])
def test_params_initialise_another_model_without_a_template(tmp_path, best_by, step):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1, score=2.0)
        save(checkpointer, 2, score=1.0)
        save(checkpointer, 3)
    params, batch_stats, meta = restore_params(tmp_path, best_by=best_by)
    other = make_state(seed=5)
    nnx.replace_by_pure_dict(other.params, params)
    nnx.replace_by_pure_dict(other.batch_stats, batch_stats)
    expected = make_state(step, seed=step)
    assert_same(other.params, expected.params)
    assert_same(other.batch_stats, expected.batch_stats)
    assert meta == {"step": step}


@pytest.mark.parametrize("best_by", [BLEU_4, LOWEST])
def test_a_score_that_is_no_number_is_the_worst(tmp_path, best_by):
    with Checkpointer(tmp_path) as checkpointer:
        for step, score in enumerate((math.nan, 1.0, math.nan), start=1):
            save(checkpointer, step, score=score)
    assert restore_params(tmp_path, best_by=best_by)[2] == {"step": 2}


def test_params_of_an_empty_or_missing_directory_are_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        restore_params(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        restore_params(tmp_path / "absent")


@pytest.mark.slow
def test_a_changed_bit_in_any_file_is_noticed_or_without_effect(tmp_path):
    with Checkpointer(tmp_path / "whole") as checkpointer:
        save(checkpointer, 1)
        save(checkpointer, 2)
    whole = tmp_path / "whole" / "2"
    noticed = {}
    files = [path for path in whole.rglob("*") if path.is_file() and path.stat().st_size]
    for file in sorted(path.relative_to(whole) for path in files):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        content = bytearray((whole / file).read_bytes())
        content[len(content) // 2] ^= 4
        (tmp_path / "copy" / "2" / file).write_bytes(content)
        with warnings.catch_warnings(record=True), Checkpointer(tmp_path / "copy") as checkpointer:
            restored, _, meta = checkpointer.restore(make_state())
        step = int(restored.step)
        assert_same(restored, make_state(step, seed=step))
        assert meta == {"step": step}
        noticed[file] = step == 1
    read_by_nobody = {"_CHECKPOINT_METADATA", "commit_success.txt"}
    assert {file.name for file, found in noticed.items() if not found} <= read_by_nobody
    assert len(noticed) > 8


def test_numbers_that_are_not_finite_are_set_aside_with_the_name_of_the_array(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1)
        bad = make_state(2)
        bad.params["head"]["kernel"][...] = bad.params["head"]["kernel"][...].at[0, 0].set(jnp.nan)
        checkpointer.save(bad, data={}, meta={"step": 2})
    with pytest.warns(UserWarning, match=r"damaged \(params\.head\.kernel holds NaN or infinity\)"):
        assert restore_params(tmp_path)[2] == {"step": 1}
    with Checkpointer(tmp_path) as checkpointer, pytest.warns(UserWarning, match="NaN"):
        assert int(checkpointer.restore(make_state())[0].step) == 1
    assert (tmp_path / "2.damaged").is_dir()


def test_shapes_are_compared_before_an_array_is_read(tmp_path, monkeypatch):
    def read(array):
        raise AssertionError("read")

    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1)
        checkpointer.wait()
        monkeypatch.setattr(checkpoints.np, "isfinite", read)
        with pytest.raises(CheckpointError, match="from another model or optimizer"):
            checkpointer.restore(make_state(width=5))


def test_scores_without_a_checkpoint_are_not_kept(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1, score=99.0)
    shutil.rmtree(tmp_path / "1")
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(make_state()) is None
        assert checkpointer.scores == {}
        save(checkpointer, 1)
        save(checkpointer, 2, score=1.0)
    assert restore_params(tmp_path, best_by=BLEU_4)[2] == {"step": 2}


def test_any_name_of_a_folder_is_taken_or_refused(tmp_path):
    directory = tmp_path / "100% #1? a|b *~ü {c}'" / "checkpoints"
    with Checkpointer(directory) as checkpointer:
        save(checkpointer, 1)
    with Checkpointer(directory) as checkpointer:
        assert int(checkpointer.restore(make_state())[0].step) == 1
    assert restore_params(directory)[2] == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == [directory.parent.name]
    for name in ("run[1]", "a\\b"):
        for use in (Checkpointer, restore_params):
            with pytest.raises(CheckpointError, match=r"has \[ \] or .* another --workdir"):
                use(tmp_path / name)


@pytest.mark.parametrize("averaged", [False, True])
def test_the_average_is_what_another_run_gets_if_there_is_one(tmp_path, averaged):
    state, other = make_state(step=1), make_state(seed=3)
    if averaged:
        state = state.replace(ema=other.params)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, data={}, meta={})
    params, _, _ = restore_params(tmp_path)
    wanted = other if averaged else state
    np.testing.assert_array_equal(params["head"]["kernel"], wanted.params["head"]["kernel"][...])


def test_the_loop_alone_asks_jax_for_signals(tmp_path, monkeypatch):
    """JAX stops at the number after the last one asked: a step in between would move it out of reach."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step))
    with Checkpointer(tmp_path) as checkpointer:
        save(checkpointer, 1)
        save(checkpointer, 2)
    assert saved_steps(tmp_path) == [1, 2]
    assert asked == []
