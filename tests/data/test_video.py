"""Video files: frames by their times, and files that cannot be opened."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from sslssaw_jax.data import video
from tests.support.matroska import RATE, write_matroska


def shades(clip: video.ClipFrames) -> list[int]:
    """The mean of each frame, rounded to ten."""
    images = [cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR) for frame in clip.video]
    return [round(float(image.mean()) / 10) * 10 for image in images]


@pytest.mark.parametrize(
    ("until", "start", "end", "still", "after"),
    [
        (6, 0, 9, 75, 75),
        (6, 1, 5, 50, 0),
        (6, 4, 5, 25, 0),  # no frame begins inside
        (6, 4, 8, 50, 50),
        (18, 15, 16, 25, 0),  # a seek lands inside the still picture
        (18, 15, 20, 75, 50),
        (40, 30, 31, 25, 0),
        (40, 30, 42, 250, 50),
    ],
)
def test_a_picture_stays_until_the_next_in_a_file_of_varying_rate(
    until: int, start: int, end: int, still: int, after: int, tmp_path: Path
) -> None:
    """A screen recorder leaves out frames while the picture stays the same: here from second 3 on."""
    numbers = [number for number in range((until + 3) * RATE) if not 3 * RATE < number < until * RATE]
    shade = {0: 50, 3: 100, until: 200}
    pictures = {
        number / RATE: np.full((16, 16, 3), shade[max(at for at in shade if at <= number / RATE)], np.uint8)
        for number in numbers
    }
    write_matroska(tmp_path / "a.mkv", pictures)
    clip = video.read_video(video.Segment(tmp_path / "a.mkv", start, end), video.Resize(), fps=RATE)
    assert clip.odd == []
    before = max(0, 3 - start) * RATE
    assert shades(clip) == [50] * before + [100] * still + [200] * after


def test_a_still_picture_of_an_hour_is_too_long(tmp_path: Path) -> None:
    black = np.zeros((16, 16, 3), np.uint8)
    write_matroska(tmp_path / "a.mkv", {0.0: black, 5000.0: black})
    clip = video.read_video(video.Segment(tmp_path / "a.mkv", 0.0, 4900.0), video.Resize(), fps=RATE)
    assert clip.video == [] and "cut it into sentences" in clip.odd[0] and clip.too_long


def test_more_pictures_per_second_than_any_camera_takes_are_not_decoded(tmp_path: Path) -> None:
    black = np.zeros((16, 16, 3), np.uint8)
    write_matroska(tmp_path / "a.mkv", {number / 1000: black for number in range(60)})
    assert video.read_video(tmp_path / "a.mkv", video.Resize(), fps=25, most_frames=10).odd == []
    clip = video.read_video(tmp_path / "a.mkv", video.Resize(), fps=25, most_frames=5)
    assert clip == video.ClipFrames([], ["over 48 pictures: `ffmpeg -i OLD -r 25 NEW.mp4`"])


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n", "ffconcat version 1.0\nfile a.mkv\n"],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_playlist_cannot_name_other_files(tmp_path: Path, text: str, mark: str) -> None:
    write_matroska(tmp_path / "a.mkv", {0.0: np.zeros((16, 16, 3), np.uint8)})
    (tmp_path / "list.mp4").write_text(mark + text, encoding="utf-8")
    clip = video.read_video(tmp_path / "list.mp4", video.Resize(), fps=RATE)
    assert clip == video.ClipFrames([], ["it is a playlist: name the video file itself"])


def test_a_file_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.mkv"))
    write_matroska(path, {0.0: np.zeros((16, 16, 3), np.uint8)})
    clip = video.read_video(video.Segment(path, 0.0, math.inf), video.Resize(), fps=RATE)
    assert clip == video.ClipFrames([], ["its path is not UTF-8: rename it"])


def test_a_codec_that_cannot_be_decoded_is_named_with_the_remedy(tmp_path: Path) -> None:
    write_matroska(tmp_path / "a.mkv", {0.0: np.zeros((16, 16, 3), np.uint8)}, codec="V_MPEGH/ISO/HEVC")
    clip = video.read_video(tmp_path / "a.mkv", video.Resize(), fps=RATE)
    assert clip.video == [] and len(clip.odd) == 1
    assert "codec hevc" in clip.odd[0] and "ffmpeg -i OLD.mp4 -c:v libx264" in clip.odd[0]


def test_a_video_that_a_phone_filmed_upright_is_upright(tmp_path: Path) -> None:
    """A phone stores the sensor's wide picture and a matrix; OpenCV 4.11 applies it only if asked to."""
    writer = cv2.VideoWriter(str(tmp_path / "wide.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (96, 64))
    bright_left = np.repeat(np.uint8([255, 0]), 48)[None, :, None].repeat(64, 0).repeat(3, 2)
    for _ in range(5):
        writer.write(bright_left)
    writer.release()
    stored = (tmp_path / "wide.mp4").read_bytes()
    matrix = stored.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2
    turned = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30], ">i4").tobytes()  # clockwise
    (tmp_path / "upright.mp4").write_bytes(stored[:matrix] + turned + stored[matrix + len(turned) :])
    clip = video.read_video(
        video.Segment(tmp_path / "upright.mp4", 0.0, math.inf), video.Resize(side=0), fps=RATE
    )
    image = cv2.imdecode(np.frombuffer(clip.video[0], np.uint8), cv2.IMREAD_COLOR)
    height, width, _ = image.shape
    assert height > width
    assert image[: height // 3].mean() > 200 and image[-height // 3 :].mean() < 50
