import errno
import io
import json
import math
import pty
import re
import termios

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sslssaw_jax.training import run_log as logs
from sslssaw_jax.training.run_log import RunLog
from sslssaw_jax.workdir import WorkdirError, write_json, write_jsonl


@pytest.fixture
def clock(monkeypatch):
    """Replace the log's clock with one that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(logs.time, "perf_counter", lambda: now[0])
    return now


def read(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def run(workdir, stage: str, steps, start_step: int = 0, loss: float = 1.0) -> str:
    stream = io.StringIO()
    with RunLog(workdir, stage, epoch_ends=[100], start_step=start_step, stream=stream) as log:
        for step in steps:
            log.count(clips=1, frames=10, waited=0.0)
            log.write({step: {"loss": loss}})
    return stream.getvalue()


def test_a_line_holds_the_values_and_the_rates_since_the_line_before(tmp_path, clock):
    with RunLog(tmp_path, "translate", epoch_ends=[10], stream=io.StringIO()) as log:
        for _ in range(2):
            clock[0] += 2.0
            log.count(clips=16, frames=1000, waited=0.5)
        log.write({2: {"loss": 1 / 3, "loss_question": 0.25, "lr": 0.01}})
        on_disk = read(tmp_path)  # a reader does not have to wait for the run to end
        clock[0] += 1.0
        log.count(clips=8, frames=300, waited=0.0)
        log.write({3: {"loss": math.nan, "lr": 0.01}})
    first, second = read(tmp_path)
    assert on_disk == [first]
    assert first == {
        "step": 2,
        "stage": "translate",
        "loss": 0.333333,
        "loss_question": 0.25,
        "lr": 0.01,
        "step_time": 2.0,
        "clips_per_s": 8.0,
        "frames_per_s": 500.0,
        "input_wait": 0.25,
    }
    assert (second["clips_per_s"], second["input_wait"], second["loss"]) == (8.0, 0.0, None)


def test_time_of_an_evaluation_is_not_counted(tmp_path, clock):
    with RunLog(tmp_path, "translate", epoch_ends=[10], stream=io.StringIO()) as log:
        clock[0] += 0.25
        with log.paused():
            clock[0] += 100.0
        clock[0] += 0.75
        log.count(clips=4, frames=40, waited=0.0)
        log.write({1: {"loss": 1.0}})
    assert read(tmp_path)[0]["clips_per_s"] == 4.0


def test_a_resumed_run_logs_no_step_twice_and_leaves_the_other_stage(tmp_path):
    run(tmp_path, "pretrain", [10, 20, 30, 40])
    run(tmp_path, "translate", [10, 20, 30])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 40, "stage": "trans')  # killed while writing
    run(tmp_path, "translate", [30, 40], start_step=20, loss=2.0)
    rows = read(tmp_path)
    assert [row["step"] for row in rows if row["stage"] == "pretrain"] == [10, 20, 30, 40]
    assert [(row["step"], row["loss"]) for row in rows if row["stage"] == "translate"] == [
        (10, 1.0),
        (20, 1.0),
        (30, 2.0),
        (40, 2.0),
    ]


def test_a_stage_started_anew_forgets_its_old_lines(tmp_path):
    run(tmp_path, "translate", [10, 20])
    run(tmp_path, "translate", [10], start_step=0, loss=2.0)
    assert [(row["step"], row["loss"]) for row in read(tmp_path)] == [(10, 2.0)]


def test_tensorboard_shows_each_stage_apart_and_nothing_that_an_interrupted_run_repeats(tmp_path):
    run(tmp_path, "pretrain", [10])
    run(tmp_path, "translate", [10, 20, 30])
    run(tmp_path, "translate", [20], start_step=10, loss=2.0)
    for stage, losses in (("pretrain", [(10, 1.0)]), ("translate", [(10, 1.0), (20, 2.0)])):
        shown = EventAccumulator(str(tmp_path / "tensorboard" / stage)).Reload().Scalars("loss")
        assert [(event.step, event.value) for event in shown] == losses


def test_tensorboard_writes_through_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkdirError, match="replace the link by a folder"):
        run(tmp_path / "run", "translate", [10])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_progress_elsewhere_than_a_terminal_is_plain_lines(tmp_path, clock):
    stream = io.StringIO()
    with RunLog(tmp_path, "translate", epoch_ends=[500, 1000], peak_flops=1e13, stream=stream) as log:
        for _ in range(20):
            clock[0] += 0.5
            log.count(clips=8, frames=900, waited=0.05, flops=1e12)
        log.write({20: {"loss": 2.34567}})
    assert stream.getvalue() == (
        "translate 20/1,000  epoch 1/2  ETA 0:08:10  loss 2.346  16.0 clips/s  1,800 frames/s  MFU 20%  "
        "input wait 10%  0.5 s/step\n"
    )


def test_the_time_left_follows_from_all_steps_and_no_compilation(tmp_path, clock):
    stream = io.StringIO()
    with RunLog(tmp_path, "translate", epoch_ends=[2, 4], stream=stream) as log:
        with log.compiling("questions of 9 tokens"):
            clock[0] += 100.0
        for step, seconds in ((1, 30.0), (2, 90.0), (3, 150.0)):
            clock[0] += seconds
            log.count(clips=1, frames=10, waited=0.0)
            log.write({step: {"loss": 1.0}})
    shown = re.findall(r"translate (\d)/4  (epoch ./2)  ETA 0:(\d\d:\d\d)", stream.getvalue())
    assert shown == [("1", "epoch 1/2", "01:30"), ("2", "epoch 1/2", "02:00"), ("3", "epoch 2/2", "01:30")]
    told = "compiling the training step for questions of 9 tokens ...\ntranslate: compiled in 100 s\n"
    assert told in stream.getvalue()


def test_lines_of_progress_are_half_a_minute_apart_but_for_the_last(tmp_path, clock):
    stream = io.StringIO()
    with RunLog(tmp_path, "translate", epoch_ends=[6], stream=stream) as log:
        for step in range(1, 7):
            clock[0] += 16.0
            log.count(clips=1, frames=0, waited=0.0)
            log.write({step: {"loss": 1.0}})
    assert re.findall(r"translate (\d)/6", stream.getvalue()) == ["1", "3", "5", "6"]
    assert "frames/s" not in stream.getvalue(), "a run without video counts no frames"
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_steps_that_are_logged_at_once_share_their_rates(tmp_path, clock):
    with RunLog(tmp_path, "translate", epoch_ends=[10], stream=io.StringIO()) as log:
        for _ in range(2):
            clock[0] += 2.0
            log.count(clips=8, frames=100, waited=0.0)
        log.write({1: {"loss": 2.0}, 2: {"loss": 1.0}})
    assert [(row["step"], row["loss"], row["frames_per_s"], row["step_time"]) for row in read(tmp_path)] == [
        (1, 2.0, 50.0, 2.0),
        (2, 1.0, 50.0, 2.0),
    ]


def _read_all(screen: int) -> bytes:
    """Read what a closed terminal shows, which may come in parts, and close the screen."""
    shown = b""
    with open(screen, "rb", buffering=0) as stream:
        try:
            while part := stream.read(2**16):
                shown += part
        except OSError as error:  # on Linux, the end of a terminal that nobody holds
            assert error.errno == errno.EIO
    return shown


def test_progress_in_a_terminal_is_one_line_that_fits_and_messages_stay(tmp_path):
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    with (
        open(terminal, "w") as stream,
        RunLog(tmp_path, "translate", epoch_ends=[500, 1000], stream=stream) as log,
    ):
        log.write({20: {"loss": 2.0}})
        log.write({40: {"loss": 1.0}})
        log.info("dev BLEU-4 20.1")
    shown = _read_all(screen).decode()
    lines = [line.split("\r") for line in shown.replace("\r\n", "\n").split("\n")]
    assert len(lines) == 3 and lines[-1] == [""]  # a line of the message, and a line of progress
    assert lines[0][-1] == "dev BLEU-4 20.1"
    for step, loss in ((20, 2), (40, 1)):
        progress = [text for line in lines for text in line if f"{step}/1000" in text]
        assert progress and all(len(text) < 80 for text in progress)
        # neither the time left nor the loss is cut off
        assert all(re.search(rf"epoch 1/2: .*\[\d\d:\d\d<\d\d:\d\d, loss {loss},", text) for text in progress)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"satz": "über"})
    assert "über" in path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(path, {"bleu4": object()})
    with pytest.raises(TypeError):
        write_jsonl(path, [{"id": 1}, {"id": object()}])
    assert json.loads(path.read_text(encoding="utf-8")) == {"satz": "über"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_rows_are_one_object_a_line_in_a_folder_that_need_not_exist(tmp_path):
    path = tmp_path / "new" / "predictions.jsonl"
    write_jsonl(path, [{"id": "a", "prediction": "zwei\nzeilen"}, {"id": "b", "prediction": ""}])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"id": "a", "prediction": "zwei\nzeilen"}, {"id": "b", "prediction": ""}]
