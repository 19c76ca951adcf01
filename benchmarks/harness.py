"""Measure two sides in turn, each in a process on one core, and keep the table."""

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
VOCAB_SIZE = 2454  # of mBART trimmed to PHOENIX-2014T
ONE_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class Worker:
    """A process of this program that measures one side of a case, pinned to one core."""

    def __init__(self, arguments: Sequence[str], core: int) -> None:
        command = [sys.executable, "-m", _module(), *arguments]
        self._process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD,
        )
        self.setup = self._answer()

    def round(self) -> dict[str, Any]:
        """Run one more round and return its measurements."""
        self._send("round")
        return self._answer()

    def close(self) -> float:
        """End the process and return its peak memory in GB."""
        self._send("end")
        answer = self._answer()
        self._process.wait()
        return answer["peak_gb"]

    def _send(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"a worker ended early: {shlex.join(self._process.args)}")  # type: ignore[arg-type]


def serve(run: Callable[[], Any], **setup: Any) -> None:
    """Answer requests with a run's processor time; end with peak memory."""
    print(json.dumps(setup), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        start = time.process_time()
        result = run()
        print(json.dumps({"seconds": time.process_time() - start, "result": result}), flush=True)
    print(
        json.dumps({"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}), flush=True
    )


@dataclass(frozen=True)
class Comparison:
    """The measurements of both sides, by the names "ours" and "theirs"."""

    seconds: dict[str, float]  # processor time of the fastest round
    results: dict[str, Any]  # of the last round
    setup: dict[str, dict[str, Any]]
    peaks: dict[str, float]  # GB

    @property
    def ratio(self) -> float:
        return self.seconds["ours"] / self.seconds["theirs"]


def compare(ours: Sequence[str], theirs: Sequence[str], rounds: int, core: int) -> Comparison:
    """Run both sides in turn, `rounds` times after a warm-up round."""
    workers = {"ours": Worker(ours, core), "theirs": Worker(theirs, core)}
    answers = [{side: worker.round() for side, worker in workers.items()} for _ in range(rounds + 1)]
    return Comparison(
        seconds={side: min(answer[side]["seconds"] for answer in answers[1:]) for side in workers},
        results={side: answers[-1][side]["result"] for side in workers},
        setup={side: worker.setup for side, worker in workers.items()},
        peaks={side: worker.close() for side, worker in workers.items()},
    )


def keep(name: str, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table and append it, with date and machine, to `results/<name>.md`."""
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    table = "\n".join(lines)
    print(table, flush=True)
    RESULTS.mkdir(exist_ok=True)
    command = shlex.join(["python", "-m", _module(), *sys.argv[1:]])
    with (RESULTS / f"{name}.md").open("a", encoding="utf-8") as file:
        file.write(
            f"## {title}\n\n{datetime.datetime.now():%Y-%m-%d %H:%M}, {machine()}\n\n"
            f"`{command}`\n\n{table}\n\n"
        )


def machine() -> str:
    """Return processor, cores and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    packages = ("jax", "flax", "torch", "transformers", "numpy", "opencv-python-headless")
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    versions = ", ".join(f"{package} {installed[package]}" for package in packages if package in installed)
    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"
