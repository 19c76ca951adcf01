"""The command that draws the training curves of tables."""

from pathlib import Path

import pytest

from sslssaw_jax.tables.curves import main
from sslssaw_jax.workdir import LOG, write_jsonl

ROW = {"stage": "translate", "step": 1, "loss_sentence": 2.0, "accuracy": 0.5, "step_time": 0.25}


def test_curves_are_drawn_and_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "seed0" / "demo_qb" / LOG
    write_jsonl(log, [ROW, ROW | {"step": 2}])
    main([f"--workdir={tmp_path}", f"--out={tmp_path / 'curves.png'}"])
    assert "| demo_qb | 1 | 2 | 0.25 |" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size
    log.write_text("{damaged\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: .*log\.jsonl, line 1 is damaged"):
        main([f"--workdir={tmp_path}", f"--out={tmp_path / 'curves.png'}"])


@pytest.mark.parametrize(("name", "told"), [("x.txt", "must end in .png"), ("none/x.png", "no folder")])
def test_a_picture_that_cannot_be_written_is_refused_before_the_logs_are_read(
    name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"--workdir={tmp_path / 'absent'}", f"--out={tmp_path / name}"])
    assert told in capsys.readouterr().err
