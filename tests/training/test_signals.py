"""A signal at any moment ends a run with its status, one line, and what was saved."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jax.experimental import multihost_utils

from sslssaw_jax.training.checkpoints import find_damage
from sslssaw_jax.training.signals import StopRequest
from sslssaw_jax.workdir import CHECKPOINTS, saved_steps
from tests.support.stopped_runs import stops

ROOT = Path(__file__).parents[2]
AT_ONCE = "stopped by SIGTERM: start again to continue"
STEPS = {  # saved before the moment
    "in_initialization": [],
    "in_tracing": [],
    "in_native_code": [],
    "in_a_save": [4, 5],
    "in_the_first_evaluation": [4, 6],
    "after_training": [8, 12],
}


@pytest.mark.slow
def test_a_signal_in_each_phase_of_a_training_ends_it_with_all_that_was_saved(
    tiny_data_dir: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.support.stopped_runs", str(tiny_data_dir), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert dict(line.split() for line in done.stdout.splitlines()) == dict.fromkeys(STEPS, "143"), done.stderr
    for moment, steps in STEPS.items():
        checkpoints = tmp_path / moment / CHECKPOINTS
        assert saved_steps(checkpoints)[-2:] == steps, moment
        assert not any(find_damage(checkpoints / str(step)) for step in steps)
        output = (tmp_path / f"{moment}.txt").read_text()
        saved = "stopped by SIGTERM after step 5 of translate, which is saved: start again to continue"
        assert stops(output) == [saved if moment == "in_a_save" else AT_ONCE]
        assert "Traceback" not in output


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_libraries_are_imported_ends_in_one_line(name: str, tmp_path: Path) -> None:
    code = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, module, *rest):\n"
        "        if module == 'jax':\n"
        f"            os.kill(os.getpid(), signal.{name})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['run.py', '--config=configs/demo.py']\n"
        "runpy.run_path('run.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + getattr(signal, name), "")
    assert done.stdout == f"stopped by {name}: start again to continue\n"


@pytest.mark.slow
def test_of_several_processes_ctrl_c_asks_jax_to_stop_all_and_a_second_one_kills() -> None:
    code = (
        "import os, signal, threading\n"
        "from sslssaw_jax.training import signals\n"
        "signals.REPEATED, asked = 0, threading.Event()\n"
        "os.kill = lambda _, number: (print(signal.Signals(number).name, flush=True), asked.set())\n"
        "stop = signals.StopRequest(); stop.listen(); stop.leave_to_jax()\n"
        "with stop.deferred():\n"
        "    with stop.at_once(lambda: print('not called')):  # a compilation\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        asked.wait()\n"
        "    print('another step', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    threading.Event().wait(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + 2, "SIGTERM\nanother step\n")


def test_jax_is_asked_by_a_count_that_no_stage_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda number: asked.append(number) or number == 4
    )
    stop = StopRequest()
    with stop.deferred():
        assert [stop.reached() for _ in range(2)] == [False, False]
    with stop.deferred():  # the next stage
        assert [stop.reached() for _ in range(2)] == [False, True]
    assert asked == [1, 2, 3, 4]


@pytest.mark.parametrize(("repeated", "status"), [(0, 128 + 15), (1e9, 0)])
def test_a_second_signal_kills_unless_a_launcher_and_a_parent_have_sent_the_same(
    repeated: float, status: int
) -> None:
    code = (
        "import os, signal, threading\n"
        "from sslssaw_jax.training import signals\n"
        f"signals.REPEATED = {repeated}\n"
        "write, told = os.write, threading.Event()\n"
        "os.write = lambda *what: (write(*what), told.set())\n"
        "stop = signals.StopRequest(); stop.listen()\n"
        "with stop.deferred():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    told.wait()\n"
        "    print(stop.reached(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    threading.Event().wait({60 if status else 0.2})\n"  # for the thread that kills
        "    os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "True\n")
    assert done.stderr == "\nSIGINT: stopping after this step; once more to stop immediately\n"
