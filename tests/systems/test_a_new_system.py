"""The proof of the design: a system in one file trains, resumes, translates and has a row in a table."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import sslssaw_jax.training.loop
from configs.systems import OTHER_SYSTEMS, SMALL
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.systems import SYSTEMS, default_config, read_config
from sslssaw_jax.tables import PAPER, rows
from sslssaw_jax.tables.rows import ROOT, make_table
from sslssaw_jax.training.checkpoints import restore_params
from sslssaw_jax.workdir import CHECKPOINTS
from tests.support import toy_system

RUN = """
import sys
from configs.systems import OTHER_SYSTEMS, SMALL
from sslssaw_jax.systems import SYSTEMS
from tests.support.toy_system import SYSTEM
SYSTEMS["toy"], OTHER_SYSTEMS["toy"], SMALL["toy"] = SYSTEM, "toy", {}
from absl import flags
import run
run.parse_flags(sys.argv)
run.main(sys.argv[:1])
"""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """What adding a system takes: its file, a row of `SYSTEMS`, one of `configs/` and one of the paper."""
    monkeypatch.setitem(SYSTEMS, "toy", toy_system.SYSTEM)
    monkeypatch.setitem(OTHER_SYSTEMS, "toy", "toy")
    monkeypatch.setitem(SMALL, "toy", {})
    row = {"labels": ["Toy"], "experiment": "toy", "paper": [5.0, 4.0, 3.0, 2.0, 1.0]}
    table = {"title": "Toys", "dataset": "avatar_qa", "columns": ["Method"], "rows": [row]}
    monkeypatch.setitem(PAPER, "9", table)


def configuration(data_dir: Path) -> ConfigDict:
    config = default_config("toy")
    config.data.update({"data_dir": str(data_dir), "image_size": 24, "max_frames": 32, "num_threads": 1})
    config.translate.update({"epochs": 2, "clips_per_batch": 8, "frame_budget": 160})
    config.translate.optim.learning_rate = 0.1
    config.decode.update({"beams": 2, "max_new_tokens": 8})
    config.checkpoint.every_steps = 2
    return config


def test_it_trains_resumes_and_translates(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> None:
        Experiment(read_config(configuration(tiny_data_dir)), tmp_path / name).run("train")

    run("whole")
    shard_batch, calls = sslssaw_jax.training.loop.shard_batch, []

    def interrupted(batch, mesh):
        calls.append(batch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return shard_batch(batch, mesh)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sslssaw_jax.training.loop, "shard_batch", interrupted)
        run("interrupted")
    run("interrupted")
    whole, again = (restore_params(tmp_path / name / CHECKPOINTS)[:2] for name in ("whole", "interrupted"))
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert metrics["test"]["num_clips"] == 6 and metrics["test"]["questions"] == {}
    assert (tmp_path / "whole" / "report.html").exists()


def test_it_has_a_row_in_a_table(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_run.py").write_text(RUN)
    monkeypatch.setattr(rows, "RUN_PY", (sys.executable, str(tmp_path / "toy_run.py")))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    changes = {"data.data_dir": tiny_data_dir, "warm_start.epochs": 0}
    changes |= {"translate.epochs": 1, "translate.optim.warmup_steps": 0}
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    (row,) = make_table(9, "avatar_qa", tmp_path / "W", run_flags=flags)
    assert row.failed == 0, (tmp_path / "W" / "seed0" / "demo_toy" / "run.log").read_text()
    assert "| Toy |" in (tmp_path / "W" / "table9.avatar_qa.md").read_text()
    assert 0 <= row.mean("bleu4") <= 100
