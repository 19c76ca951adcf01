"""The pictures of a clip show what the model reads."""

from pathlib import Path

import cv2
import numpy as np

from sslssaw_jax.data.clips import Clip
from sslssaw_jax.data.frames import select_frames
from sslssaw_jax.evaluation.predictions import Gate, Prediction
from sslssaw_jax.report.clip_pictures import draw_clip


def test_frames_are_evenly_spaced_ones_of_those_that_the_model_reads(tmp_path: Path) -> None:
    shades = np.arange(0, 200, 10)
    video = [cv2.imencode(".jpg", np.full((16, 16, 3), shade, np.uint8))[1].tobytes() for shade in shades]
    clip = Clip("clip0", len(video), "", "", "", "anna", video=video)
    draw_clip(tmp_path, clip, Prediction("clip0", "", "", "", 0.0), None, max_frames=10)
    picture = cv2.imread(str(tmp_path / "frames" / "clip0.jpg"), cv2.IMREAD_GRAYSCALE)
    read = np.abs(picture[8, 8::16].astype(int)[:, None] - shades).argmin(axis=1)
    assert read.tolist() == select_frames(20, 10, None)[[0, 1, 3, 4, 5, 6, 8, 9]].tolist()


def test_a_gate_gives_a_heat_map_and_no_picture_of_frames(tmp_path: Path) -> None:
    video = [cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()] * 3
    clip = Clip("clip0", len(video), "", "", "", "anna", video=video)
    gate = Gate(["▁wird"], np.linspace(0.4, 0.6, 4, dtype=np.float32))
    draw_clip(tmp_path, clip, Prediction("clip0", "wird", "", "ja", 0.0), gate, max_frames=3)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["heatmaps/clip0.png"]
