"""The proof of the design: a system in one short file trains, translates and has a row in a table.

`tests/training/test_resume.py` kills its training, and `tests/training/test_processes.py` splits it.
"""

import sys
from pathlib import Path

import pytest

from configs.systems import OTHER_SYSTEMS, SMALL
from sslssaw_jax.systems import SYSTEMS
from sslssaw_jax.tables import PAPER, rows
from sslssaw_jax.tables.rows import ROOT, make_table
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
    """Everything that adding a system takes: its file, and rows in `SYSTEMS`, `configs/` and the tables."""
    monkeypatch.setitem(SYSTEMS, "toy", toy_system.SYSTEM)
    monkeypatch.setitem(OTHER_SYSTEMS, "toy", "toy")
    monkeypatch.setitem(SMALL, "toy", {})
    row = {"labels": ["Toy"], "experiment": "toy", "paper": [5.0, 4.0, 3.0, 2.0, 1.0]}
    table = {"title": "Toys", "dataset": "avatar_qa", "columns": ["Method"], "rows": [row]}
    monkeypatch.setitem(PAPER, "9", table)


def test_it_is_one_short_file() -> None:
    assert len(Path(toy_system.__file__).read_text().splitlines()) <= 60


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
    assert (tmp_path / "W" / "seed0" / "demo_toy" / "report.html").exists()
