"""The pictures of a clip show what the model reads."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sslssaw_jax.data.clips import Clip
from sslssaw_jax.data.frames import select_frames
from sslssaw_jax.evaluation.explanation import Explanation, StretchDrop
from sslssaw_jax.evaluation.predictions import Prediction
from sslssaw_jax.report.clip_pictures import draw_clip, shown_frames
from sslssaw_jax.workdir import WorkdirError

SHADES = np.arange(0, 200, 10)
VIDEO = [cv2.imencode(".jpg", np.full((16, 16, 3), shade, np.uint8))[1].tobytes() for shade in SHADES]
CLIP = Clip("clip0", len(VIDEO), "", "", "", "anna", video=VIDEO)


def test_frames_are_evenly_spaced_ones_of_those_that_the_model_reads() -> None:
    shades = shown_frames(CLIP, max_frames=10)[:, 8, 8, 0].astype(int)
    read = np.abs(shades[:, None] - SHADES).argmin(axis=1)
    assert read.tolist() == select_frames(20, 10, None)[[0, 1, 3, 4, 5, 6, 8, 9]].tolist()


def test_a_clip_without_a_gate_is_drawn_by_what_its_sentence_hangs_on(tmp_path: Path) -> None:
    explanation = Explanation("ja", -0.5, [], [StretchDrop(0, 10, 1.0), StretchDrop(10, 20, 2.0)])
    draw_clip(tmp_path, CLIP, Prediction("clip0", "", "", "ja", 0.0), None, explanation, max_frames=20)
    (path,) = tmp_path.rglob("*.*")
    assert path.relative_to(tmp_path).as_posix() == "heatmaps/clip0.png"
    red = (cv2.imread(str(path)) == [0x2D, 0x11, 0xE8]).all(axis=-1)
    assert red.any() and np.nonzero(red)[1].min() > 0.45 * red.shape[1], "the second stretch is the red one"


@pytest.mark.parametrize("name", ["../../secret", "link/secret", "kept"])
def test_no_picture_is_written_outside_the_workdir(tmp_path: Path, name: str) -> None:
    workdir, outside = tmp_path / "runs" / "run", tmp_path / "outside"
    (workdir / "heatmaps").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept.png").write_text("mine")
    (workdir / "heatmaps" / "link").symlink_to(outside)
    (workdir / "heatmaps" / "kept.png").symlink_to(outside / "kept.png")
    row, explanation = Prediction(name, "", "", "ja", 0.0), Explanation("ja", -0.5, [], [])
    with pytest.raises(WorkdirError, match="leads out of"):
        draw_clip(workdir, CLIP, row, None, explanation, max_frames=20)
    assert [path.read_text() for path in tmp_path.rglob("*.png") if not path.is_symlink()] == ["mine"]
