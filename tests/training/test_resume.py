"""A run that is killed or stopped, and started again, ends as if nothing had happened.

`SSLSSAW_KILLS=20 pytest tests/training/test_resume.py` adds a run that is killed that many times at random
moments.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sslssaw_jax.training.checkpoint_damage import open_arrays
from sslssaw_jax.workdir import CHECKPOINTS, saved_steps
from tests.support.killed_runs import BROKEN
from tests.support.stopped_runs import stops

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("SSLSSAW_KILLS", "0"))
RATES = {"step_time", "clips_per_s", "frames_per_s", "input_wait", "mfu"}
KILLED = ["after_a_step", "in_a_save", "in_an_evaluation", "before_the_scores_are_kept", "before_the_mark"]
STOPPED = ["stopped_after_a_step", "stopped_in_an_evaluation"]


def start(folder: Path, data_dir: Path, epochs: int, **chains: list[str]) -> list[tuple[str, int]]:
    """Run each chain in its own folder; return the last one's moments and exit codes."""
    arguments = [f"{name}={','.join(moments)}" for name, moments in chains.items()]
    shared = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    environment = shared | {  # every folder has its own compilation cache, which a test reads
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_LOG_COMPILES": "1",
    }
    command = [
        sys.executable,
        "-m",
        "tests.support.killed_runs",
        str(data_dir),
        str(folder),
        str(epochs),
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = [line.split() for line in done.stdout.splitlines()]
    return [(moment, int(code)) for name, moment, code in outcomes if name == list(chains)[-1]]


def assert_same_end(left: Path, right: Path) -> None:
    """Assert that states, logs, data, scores, predictions and metrics are bit-equal."""
    steps = [saved_steps(workdir / CHECKPOINTS)[-1] for workdir in (left, right)]
    assert steps[0] == steps[1]
    states = [open_arrays(workdir / CHECKPOINTS / str(steps[0]) / "state") for workdir in (left, right)]
    assert {path[0] for path in states[0]} >= {"step", "params", "opt_state"}
    assert states[0].keys() == states[1].keys()
    for path, array in states[0].items():
        np.testing.assert_array_equal(array.read().result(), states[1][path].read().result())
    files = ("metrics.json", "finished.json", "predictions.dev.jsonl", "predictions.test.jsonl")
    for file in (*files, f"{CHECKPOINTS}/scores.json"):
        assert (left / file).read_bytes() == (right / file).read_bytes(), file
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if key not in RATES}
            for line in (workdir / "log.jsonl").read_text().splitlines()
        ]
        for workdir in (left, right)
    ]
    assert logs[0] == logs[1] and len(logs[0]) == steps[0]
    orders = []
    for workdir in (left, right):
        order: dict[int, list[int]] = {}
        for line in workdir.with_name(f"{workdir.name}.order.jsonl").read_text().splitlines():
            step, clips = json.loads(line)
            assert order.setdefault(step, clips) == clips
        orders.append(order)
    assert orders[0] == orders[1] and len(orders[0]) == steps[0]
    assert not list(right.glob(f"{CHECKPOINTS}/*tmp*"))


@pytest.fixture(scope="module")
def chains(
    tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[tuple[str, int]]]:
    """Return the folder of `whole` and `killed`, and the exit codes of `killed`."""
    folder = tmp_path_factory.mktemp("resume")
    codes = start(folder, tiny_data_dir, 2, whole=[], killed=[*STOPPED, *KILLED])
    return folder, codes


def test_a_run_that_was_killed_and_stopped_ends_as_one_that_was_not(chains) -> None:
    folder, codes = chains
    assert dict(codes) == {moment: -9 for moment in KILLED} | dict.fromkeys(STOPPED, 143) | {"never": 0}
    assert_same_end(folder / "whole", folder / "killed")


def test_a_stopped_run_says_where_it_goes_on(chains) -> None:
    folder, _ = chains
    (after_a_step,) = folder.glob("killed.*.stopped_after_a_step.txt")
    (in_evaluation,) = folder.glob("killed.*.stopped_in_an_evaluation.txt")
    message = "stopped by SIGTERM after step 2 of translate, which is saved: start again to continue"
    assert stops(after_a_step.read_text()) == [message]
    assert stops(in_evaluation.read_text()) == ["stopped by SIGTERM: start again to continue"]
    for output in (after_a_step, in_evaluation):
        assert "Traceback" not in output.read_text()


def test_evaluations_share_one_compiled_translation(chains) -> None:
    """Cover two evaluations in training and two splits after it."""
    folder, _ = chains
    output = (folder / "whole.0.never.txt").read_text()
    assert output.count("translate 3: dev") == output.count("translate 6: dev") == 1
    for program in ("translate_step", "train_step"):
        assert output.count(f"Finished XLA compilation of jit({program})") == 1


def test_a_restart_loads_what_was_compiled(chains) -> None:
    folder, _ = chains
    programs = [path.name.split("-")[0] for path in (folder / "compiled").glob("*/*_step-*")]
    assert sorted(programs) == ["jit_train_step", "jit_translate_step"]  # none under another key


def test_a_broken_clip_is_skipped_and_reported_once(chains) -> None:
    folder, _ = chains
    output = (folder / "whole.0.never.txt").read_text()
    assert output.count(f"skipped the broken clip {BROKEN}: 1 of at most 1") == 1


def test_the_share_of_the_peak_is_logged(chains) -> None:
    folder, _ = chains
    rows = [json.loads(line) for line in (folder / "whole" / "log.jsonl").read_text().splitlines()]
    assert all(row["mfu"] > 0 for row in rows)


@pytest.mark.skipif(not KILLS, reason="SSLSSAW_KILLS is not set")
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(tiny_data_dir: Path, tmp_path: Path) -> None:
    moments = [f"random{seed}" for seed in range(KILLS)]
    codes = start(tmp_path, tiny_data_dir, 3 * KILLS, whole=[], killed=moments)
    assert codes == [*((moment, -9) for moment in moments), ("never", 0)]
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
