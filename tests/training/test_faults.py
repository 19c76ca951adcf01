"""Faults in training end in one clear error and keep the last good state."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslssaw_jax.config.stages import OptimConfig
from sslssaw_jax.data import clips as clips_module
from sslssaw_jax.data.clips import ClipSource, RecordError
from sslssaw_jax.data.dataset import DatasetError, find_dataset
from sslssaw_jax.data.frames import FrameError
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training import loop
from sslssaw_jax.training.checkpoints import Checkpointer, CheckpointError, restore_params
from sslssaw_jax.training.faults import TrainingError, contact_sheet, explain_device_errors, write_batch
from sslssaw_jax.training.signals import Stopped, StopRequest
from sslssaw_jax.types import Batch, TrainState
from sslssaw_jax.workdir import CHECKPOINTS, WorkdirError, locked, saved_steps
from tests.support.one_weight import LOGGING, STEPS_AN_EPOCH, Brightness, Run
from tests.support.toy import padded, toy_batch


@pytest.fixture(scope="module")
def source(tiny_data_dir: Path) -> ClipSource:
    return ClipSource(find_dataset(tiny_data_dir, "avatar_qa"), "train")


def broken(monkeypatch: pytest.MonkeyPatch, *ids: str) -> None:
    decode_frames = clips_module.decode_frames

    def decode(clip_id: str, video: Any, kept: Any, frames: Any) -> None:
        if clip_id in ids:
            decode_frames(clip_id, video, kept[:1], frames[:1])
            raise FrameError(f"frame 1 of clip {clip_id} is not a readable JPEG")
        decode_frames(clip_id, video, kept, frames)

    monkeypatch.setattr(clips_module, "decode_frames", decode)


def still(w: jax.Array) -> jax.Array:
    return w - jax.lax.stop_gradient(w)


BAD_STEPS = {  # the loss, and the message
    "loss": (lambda w: w * jnp.nan, "at step 7: loss nan"),
    "gradient": (lambda w: jnp.sqrt(jnp.abs(still(w))), "at step 7: loss 0.0, grad_norm inf"),
    "parameters": (lambda w: 1e19 * still(w), "the state after step 8 is not finite, though its loss is"),
}


@pytest.mark.parametrize("bad", BAD_STEPS)
def test_what_is_not_finite_stops_the_run_before_it_is_saved(
    bad: str, source: ClipSource, tmp_path: Path
) -> None:
    bad_loss, message = BAD_STEPS[bad]
    run = Run(source, tmp_path, optim=OptimConfig(learning_rate=1e30, momentum=0.0, weight_decay=0.0))
    batch = next(run.batches().iterator(start=6 if bad != "parameters" else 7))

    def loss(model: Any, now: Any, key: Any, counts: Any) -> Any:
        w = model.weight[...]
        return jax.lax.cond((now.index == batch.index).all(), bad_loss, lambda w: w, w), {}

    with pytest.raises(TrainingError, match=message) as error:
        run(Stage("translate", Brightness, loss))
    assert saved_steps(tmp_path / CHECKPOINTS) == [4, 6]
    assert np.isfinite(restore_params(tmp_path / CHECKPOINTS)[0]["weight"])
    if bad != "parameters":
        clips = json.loads((tmp_path / "nan_step_7" / "clips.json").read_text())
        assert [clip["id"] for clip in clips] == [source.clips[i].id for i in batch.index[batch.valid]]
        assert all(clip["id"] in str(error.value) for clip in clips)
        written = np.load(tmp_path / "nan_step_7" / "batch.npz")
        leaves = jax.tree.leaves_with_path(batch)
        arrays = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
        jax.tree.map(np.testing.assert_array_equal, dict(written), arrays)
        for row, clip in enumerate(clips):
            sheet = cv2.imread(str(tmp_path / "nan_step_7" / f"{clip['id']}.png"))[..., ::-1]
            np.testing.assert_array_equal(sheet[:48, :48], batch.frames[batch.frame_start[row]])


def test_all_batches_of_an_accumulated_step_are_written(source: ClipSource, tmp_path: Path) -> None:
    parts = [toy_batch(seed, clips=2) for seed in range(2)]
    batch = jax.tree.map(
        lambda *rows: np.stack(rows), *(padded(part, 0, 24 - len(part.frames), 0) for part in parts)
    )
    batch = batch.replace(index=np.array([[5, 3], [8, 1]]))
    assert write_batch(tmp_path, batch, source.clips) == [source.clips[i].id for i in (5, 3, 8, 1)]
    sheet = cv2.imread(str(tmp_path / f"{source.clips[8].id}.png"))[..., ::-1]
    np.testing.assert_array_equal(sheet[:16, :16], parts[1].frames[parts[1].frame_start[0]])


def test_a_batch_of_texts_is_written_without_pictures(source: ClipSource, tmp_path: Path) -> None:
    batch = toy_batch(0, clips=2)
    batch = batch.replace(index=np.array([5, 3]), frame_count=np.zeros_like(batch.frame_count))
    write_batch(tmp_path, batch, source.clips)
    assert {path.name for path in tmp_path.iterdir()} == {"clips.json", "batch.npz"}


def test_a_contact_sheet_shows_the_frames_in_rows() -> None:
    frames = np.arange(1, 11, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)
    sheet = contact_sheet(frames)
    assert sheet.shape == (4, 24, 3)
    assert sheet[0, ::3, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sheet[2, ::3, 0].tolist() == [9, 10, 0, 0, 0, 0, 0, 0]


def test_a_stopped_run_is_saved_and_evaluates_where_it_was_to(source: ClipSource, tmp_path: Path) -> None:
    run = Run(source, tmp_path)
    answers = iter([False] * 5 + [True])
    run.stop.reached = answers.__next__  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="after step 6 of translate, which is saved"):
        run()
    assert (list(answers), run.evaluations) == ([], 0)
    assert saved_steps(tmp_path / CHECKPOINTS) == [4, 6]
    run.stop = StopRequest()
    assert int(run().step) == 12
    assert run.evaluations == 2
    assert [row["step"] for row in run.logged] == list(range(1, 13))


@pytest.mark.parametrize(("accumulate", "length_steps"), [(4, 1), (1, 8)])
def test_a_stopped_run_of_stacked_batches_or_of_several_lengths_ends_as_the_whole_one(
    accumulate: int, length_steps: int, source: ClipSource, tmp_path: Path
) -> None:
    """The last of an epoch's two steps has two micro-batches without a clip."""
    whole, cut = (Run(source, tmp_path / name, accumulate=accumulate) for name in ("whole", "cut"))
    sizes = {"max_frames": 32, "max_question_tokens": 16, "max_target_tokens": 16}
    for run in (whole, cut):
        data = replace(run.config.data, length_steps=length_steps, **sizes)
        run.config = replace(run.config, data=data)
    batches = list(whole.batches())
    lengths = {batch.decoder_texts.target_mask.shape[-1] for batch in batches}
    assert len(lengths) > 1 if length_steps > 1 else batches[1].valid.any(axis=1).sum() == 2
    states = [whole()]
    cut.stop.reached = iter([False, False, True]).__next__  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="after step 3 of translate"):
        cut()
    cut.stop = StopRequest()
    states.append(cut())
    first, other = ([(row["step"], row["loss"], row["lr"]) for row in run.logged] for run in (whole, cut))
    assert first == other and len(first) == len({loss for _, loss, _ in first}) == len(batches)
    weights = [float(state.params["weight"][...]) for state in states]
    assert weights[0] == weights[1] < 0
    # the weight begins at 1; two batches without a clip add nothing
    means = batches[0].frames.reshape(accumulate, -1).mean(axis=1)
    assert first[0][1] == pytest.approx(means.sum(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "end"), [([3, 1, 2, 9, 9], 3), ([1, 2, 2, 2, 9], 4), ([5, 6, 7, 8, 9], 5)]
)
def test_patience_ends_training_after_evaluations_without_a_better_score(
    scores: list[int], end: int, source: ClipSource, tmp_path: Path
) -> None:
    run = Run(source, tmp_path, epochs=5, patience=2)
    run.scores = iter(scores)
    assert int(run().step) == end * STEPS_AN_EPOCH
    again = int(run().step)  # a restart knows the scores
    assert (again, run.evaluations) == (end * STEPS_AN_EPOCH, end)


def test_scores_without_the_one_that_chooses_the_best_state_end_the_run(
    source: ClipSource, tmp_path: Path
) -> None:
    run = Run(source, tmp_path, patience=1)
    run.evaluate = lambda state: {"loss": 1.0, "accuracy": 0.5}  # type: ignore[method-assign]
    with pytest.raises(
        TrainingError, match="chooses its best state by bleu4, but its scores on dev are loss, accuracy"
    ):
        run()
    assert saved_steps(tmp_path / CHECKPOINTS)[-1] == STEPS_AN_EPOCH


def test_too_many_broken_clips_are_an_error_that_names_them_and_a_restart_knows_the_first(
    source: ClipSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Run(source, tmp_path, skip_broken=1)
    order = [source.clips[i].id for batch in run.batches() for i in batch.index[batch.valid]]
    early, late = order[1], next(id for id in order[20:24] if id != order[1])
    with monkeypatch.context() as patched:
        broken(patched, early)
        run.stop.reached = iter([False] * 3 + [True]).__next__  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            run()
    broken(monkeypatch, late)  # without another, it would be the first
    run.stop = StopRequest()
    with pytest.raises(
        TrainingError, match=r"more than 1 clips are broken.*raise config\.data\.skip_broken"
    ) as error:
        run()
    assert early in str(error.value) and late in str(error.value)
    assert capfd.readouterr().err.count(f"skipped the broken clip {early}: 1 of at most 1") == 1


def test_an_unreadable_batch_ends_the_run_at_its_own_step(
    source: ClipSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(source, tmp_path)
    batch = next(run.batches().iterator(start=STEPS_AN_EPOCH))
    first = source.clips[batch.index[0]].id
    seen = {source.clips[i].id: 0 for i in batch.index}
    decode_frames = clips_module.decode_frames

    def decode(clip_id: str, *args: Any) -> None:
        if clip_id == first:
            seen[first] += 1
            if seen[first] == 2:  # in the second epoch
                raise FrameError(f"clip {first} is unreadable")
        decode_frames(clip_id, *args)

    monkeypatch.setattr(clips_module, "decode_frames", decode)
    with pytest.raises(FrameError, match=first):
        run()
    assert (saved_steps(tmp_path / CHECKPOINTS), run.evaluations) == ([4, 6], 1)


def test_a_batch_is_sent_before_the_step_that_runs_meanwhile(
    source: ClipSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    shard_batch, call = loop.shard_batch, loop.CountedStep.__call__

    def send(batch: Batch, mesh: Any) -> Batch:
        events.append("send")
        return shard_batch(batch, mesh)

    def step(self: Any, *args: Any) -> Any:
        events.append("step")
        return call(self, *args)

    monkeypatch.setattr(loop, "shard_batch", send)
    monkeypatch.setattr(loop.CountedStep, "__call__", step)
    Run(source, tmp_path, epochs=1)()
    assert events == ["send", *["send", "step"] * (STEPS_AN_EPOCH - 1), "step"]


def test_logging_a_step_computes_nothing_on_the_device(
    source: ClipSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_steps = loop._log_steps

    def guarded(*args: Any) -> None:
        with jax.transfer_guard_host_to_device("disallow"):
            log_steps(*args)

    monkeypatch.setattr(loop, "_log_steps", guarded)
    run = Run(source, tmp_path, epochs=1)
    run()
    assert len({row["lr"] for row in run.logged}) == STEPS_AN_EPOCH


def test_the_rate_falls_over_the_whole_run_and_at_the_ends_of_epochs(
    source: ClipSource, tmp_path: Path
) -> None:
    rates = {}
    for optim in (OptimConfig(), OptimConfig(schedule="steps", milestones=(1,))):
        run = Run(source, tmp_path / optim.schedule, optim=optim)
        run()
        rates[optim.schedule] = [row["lr"] for row in run.logged]
    steps = np.arange(2 * STEPS_AN_EPOCH)
    np.testing.assert_allclose(rates["cosine"], 0.005 * (1 + np.cos(np.pi * steps / len(steps))), atol=1e-7)
    np.testing.assert_allclose(rates["steps"], np.where(steps < STEPS_AN_EPOCH, 0.01, 0.005))


def masks(batch: Batch) -> tuple:
    """Return the masks of all texts."""
    texts = (batch.decoder_texts, batch.text_tower_texts)
    return *((each.question_mask, each.target_mask) for each in texts), batch.masked_target_mask


def test_a_broken_clip_leaves_a_row_without_a_clip(
    source: ClipSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(source, tmp_path, skip_broken=1)
    whole = next(run.batches().iterator())
    clip = source.clips[whole.index[1]]
    broken(monkeypatch, clip.id)
    batch = next(run.batches().iterator())
    rest = [0, 2, 3]
    assert batch.valid.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(batch.index, whole.index)
    for now, before in zip(jax.tree.leaves(masks(batch)), jax.tree.leaves(masks(whole))):
        assert before[1].any() and not now[1].any()
        np.testing.assert_array_equal(now[rest], before[rest])
    assert batch.frame_count[1] == 0
    for row in rest:
        parts = [each.frames[each.frame_start[row] :][: each.frame_count[row]] for each in (batch, whole)]
        np.testing.assert_array_equal(*parts)
    assert not batch.frames[batch.frame_count.sum() :].any()
    with pytest.raises(FrameError, match=clip.id):  # scores are those of the whole split
        list(run.batches(evaluation=True))
    broken(monkeypatch, *(source.clips[i].id for i in whole.index))
    with pytest.raises(FrameError):  # a batch needs at least one clip
        next(run.batches().iterator())


@pytest.mark.parametrize("how", ["vanished", "cut short"])
def test_a_dataset_that_goes_while_it_is_read_is_one_error(
    how: str, tiny_data_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data_dir, tmp_path / "data")
    run = Run(ClipSource(find_dataset(tmp_path / "data", "avatar_qa"), "train"), tmp_path / "run")
    (records,) = (tmp_path / "data").rglob("*train.array_record*")
    if how == "vanished":
        shutil.rmtree(tmp_path / "data" / "avatar_qa" / "1.0.0", ignore_errors=True)
    else:
        os.truncate(records, records.stat().st_size // 2)
    with pytest.raises(DatasetError, match=r"record \d+ of train in .*data/avatar_qa/1\.0\.0 cannot be read"):
        next(run.batches().iterator())


def test_a_damaged_record_is_a_broken_clip(tiny_data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data_dir, tmp_path / "data")
    (records,) = (tmp_path / "data").rglob("*train.array_record*")
    data = bytearray(records.read_bytes())
    data[len(data) // 2] ^= 1
    records.write_bytes(data)
    source = ClipSource(find_dataset(tmp_path / "data", "avatar_qa"), "train")
    damaged = []
    for index in range(len(source)):
        try:
            source[index]
        except RecordError:
            damaged.append(index)
    assert len(damaged) == 1
    run = Run(source, tmp_path / "run", skip_broken=1, epochs=1)
    left_out = [index for batch in run.batches() for index in batch.index[~batch.valid].tolist()]
    assert [index for index in left_out if index >= 0] == damaged
    with pytest.raises(RecordError, match=source.clips[damaged[0]].id):
        list(run.batches(evaluation=True))


def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((2**16,), np.float32)
    state = TrainState(jnp.int32(1), {"w": jnp.asarray(noise)}, {}, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(state, data={}, meta={})
    try:
        message = r"could not be written.*last whole one is of step 1"
        with pytest.raises(CheckpointError, match=message), Checkpointer(tmp_path) as checkpointer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
            checkpointer.save(state.replace(step=jnp.int32(2)), data={}, meta={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved_steps(tmp_path) == [1]
    with Checkpointer(tmp_path) as checkpointer:
        assert int(checkpointer.restore(state)[0].step) == 1
        checkpointer.save(state.replace(step=jnp.int32(2)), data={}, meta={})
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


def test_a_workdir_is_one_processs_until_it_dies(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        message = f"in use by process {os.getpid()} on .*another --workdir"
        with pytest.raises(WorkdirError, match=message), locked(tmp_path / "run"):
            pass
        with locked(tmp_path / "other"):
            pass
    code = (
        "import os, pathlib, sys; from sslssaw_jax.workdir import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")]).returncode == -9
    with locked(tmp_path / "run"):
        pass


def test_a_disk_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")  # as outside tests
        for _ in range(2):  # training and evaluation
            with locked(tmp_path / "run"):
                assert (tmp_path / "run").is_dir()
    (warning,) = told
    message = f"run cannot be locked ([Errno {errno.ENOSYS}] no locks available): let no other run use it"
    assert message in str(warning.message)


def test_a_device_without_memory_names_the_knobs() -> None:
    message = r"pretrain: .*compute\.remat.*mesh\.fsdp.*pretrain\.frame_budget"
    with pytest.raises(TrainingError, match=message), explain_device_errors("pretrain"):
        jnp.zeros((2**50,)).block_until_ready()
    with pytest.raises(ValueError, match="else"), explain_device_errors("pretrain"):
        raise ValueError("something else")
    with (
        pytest.raises(TrainingError, match=r"pretrain: cuDNN does not start.*nvidia-smi"),
        explain_device_errors("pretrain"),
    ):
        raise jax.errors.JaxRuntimeError("FAILED_PRECONDITION: DNN library initialization failed.")


def test_chosen_steps_are_traced(source: ClipSource, tmp_path: Path) -> None:
    run = Run(source, tmp_path, epochs=1)
    run.config = replace(run.config, logging=replace(LOGGING, profile="2:3"))
    run()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
