import io
import json
import sqlite3
import sys
import time
from dataclasses import replace

import pytest

from sslssaw_jax.training.run_log import RunLog
from sslssaw_jax.training.tracker import PROJECT, TrackerError, start_tracker
from sslssaw_jax.workdir import TRACKER_ID
from tests.support.toy import toy_config


def log_run(workdir, tracker: str, steps) -> None:
    """Log a loss at each step and a score at the last, as the training loop does."""
    run = start_tracker(replace(toy_config(), tracker=tracker), workdir, "translate")
    with RunLog(workdir, "translate", epoch_ends=[10], tracker=run, stream=io.StringIO()) as log:
        for step in steps:
            log.count(clips=1, frames=10, waited=0.0)
            log.write({step: {"loss": 1 / step}})
        log.write_scores(steps[-1], {"bleu4": 50.0})


def test_trackio_gets_what_tensorboard_gets_and_a_restart_goes_on_in_one_run(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    log_run(tmp_path / "demo", "trackio", [1, 2])
    log_run(tmp_path / "demo", "trackio", [3])
    log_run(tmp_path / "again" / "demo", "trackio", [1])  # another run of the same name
    with sqlite3.connect(tmp_path / "trackio" / f"{PROJECT}.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    names = [name for name, _, _ in rows]
    assert len(set(names)) == 2 and all(name.startswith("demo-translate-") for name in names)
    first = [(step, json.loads(metrics)) for name, step, metrics in rows if name == names[0]]
    assert [step for step, _ in first] == [1, 2, 2, 3, 3]
    assert first[1][1]["loss"] == 0.5 and first[2][1] == first[4][1] == {"dev/bleu4": 50.0}


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "3600")  # seconds until its process must have started
    return pytest.importorskip("wandb")


@pytest.mark.slow
def test_wandb_gets_what_tensorboard_gets_and_a_restart_goes_on_in_one_run(tmp_path, wandb):
    log_run(tmp_path, "wandb", [1, 2])
    run_id = (tmp_path / TRACKER_ID).read_text()
    [first] = tmp_path.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
    time.sleep(1)  # wandb names a folder by the second
    log_run(tmp_path, "wandb", [4])
    [second] = set(tmp_path.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")) - {first}
    wandb.teardown()  # its process writes until this call
    # a protobuf log, which contains keys and JSON values as they are
    for file, loss in ((first, b"0.5"), (second, b"0.25")):
        written = file.read_bytes()
        assert all(text in written for text in (b"loss", loss, b"clips_per_s", b"dev/bleu4", b"50"))


@pytest.mark.slow
def test_wandb_keeps_scores_of_a_step_before_its_last(tmp_path, wandb):
    run = start_tracker(replace(toy_config(), tracker="wandb"), tmp_path, "translate")
    run.log({"loss": 0.5}, step=3)
    run.log({"dev/bleu4": 77.25}, step=2)
    run.finish()
    wandb.teardown()
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"dev/bleu4" in file.read_bytes() and b"77.25" in file.read_bytes()


@pytest.mark.parametrize("package", ["trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_one_clear_error(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TrackerError, match=f"'{package}' is not installed: pip install {package}"):
        start_tracker(replace(toy_config(), tracker=package), tmp_path, "translate")


def test_a_tracker_that_refuses_is_one_clear_error(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("no API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(TrackerError, match=r"no API key configured\n.*WANDB_MODE=offline"):
        start_tracker(replace(toy_config(), tracker="wandb"), tmp_path, "translate")
