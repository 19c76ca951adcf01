"""The command that draws the training curves of tables."""

from pathlib import Path

import numpy as np
import pytest

from sslssaw_jax.tables.curves import draw, main, read_curves
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


def test_a_curve_is_the_mean_of_the_seeds_of_stage_2_and_its_band_goes_from_the_lowest_to_the_highest(
    tmp_path: Path,
) -> None:
    for seed, accuracy in enumerate((0.25, 0.5, 0.9)):
        steps = [ROW | {"step": step, "accuracy": accuracy} for step in (10, 20, 30)[: 3 - (seed == 0)]]
        stage_1 = ROW | {"stage": "pretrain", "step": 5, "accuracy": 0.0}
        for folder in ("demo_qb", "of_another_kind"):
            write_jsonl(tmp_path / f"seed{seed}" / folder / LOG, [stage_1, *steps])
    (panel,) = [axes for axes in draw(read_curves(tmp_path)).axes if axes.get_visible()]
    (line,) = panel.lines
    assert line.get_xydata().tolist() == pytest.approx(np.array([[10, 55], [20, 55]]))
    (band,) = panel.collections
    assert {round(y) for _, y in band.get_paths()[0].vertices} == {25, 90}


@pytest.mark.parametrize(("name", "told"), [("x.txt", "must end in .png"), ("none/x.png", "no folder")])
def test_a_picture_that_cannot_be_written_is_refused_before_the_logs_are_read(
    name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"--workdir={tmp_path / 'absent'}", f"--out={tmp_path / name}"])
    assert told in capsys.readouterr().err
