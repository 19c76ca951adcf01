"""Videos come back at the wanted rate and size, in order; broken ones are left out and reported."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from sslssaw_jax.data import video as frames
from sslssaw_jax.data.video import OptionError, Resize, Segment, read_video
from tfds_builders.annotation import AnnotationError
from tfds_builders.custom_qa.custom_qa_dataset_builder import Builder
from tfds_builders.video_qa_builder import UNUSUAL

CODECS = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG"}
SIZE = (48, 64)  # height, width
STEP = 4  # of the brightness from frame to frame
KEEP = Resize(side=0)


def write_video(path: Path, num_frames: int, fps: float = 25.0) -> Path:
    """Frame t is a grey of brightness STEP * t, with a dark left quarter."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[path.suffix]), fps, SIZE[::-1])
    for t in range(num_frames):
        image = np.full((*SIZE, 3), STEP * t, np.uint8)
        image[:, : SIZE[1] // 8] = 0
        writer.write(image)
    writer.release()
    return path


def pixels(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def shown(video: list[bytes]) -> list[int]:
    """Return the number of the frame that each is a copy of, by its brightness."""
    middle = [pixels(jpeg)[SIZE[0] // 3 : -SIZE[0] // 3, SIZE[1] // 2 :].mean() for jpeg in video]
    return [round(value / STEP) for value in middle]


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("fps", [25, 50, 30, 15, 29.97])
def test_each_tick_shows_the_frame_that_is_on_the_screen_then(
    tmp_path: Path, suffix: str, fps: float
) -> None:
    """To within a frame: containers round times and codecs brightness."""
    clip = read_video(write_video(tmp_path / f"clip{suffix}", 50, fps), KEEP, 25)
    assert not clip.odd
    found = np.array(shown(clip.video))
    expected = np.floor(np.arange(len(found)) * fps / 25)
    assert len(found) == pytest.approx(50 * 25 / fps, abs=1)
    assert np.abs(found - expected).max() <= 1
    if fps == 25:
        assert np.diff(found).min() >= 0 and len(found) == 50
    if fps == 50:
        assert len(found) == 25


def test_a_file_whose_rate_changes_is_read_by_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phones film like this: ten frames per second in the dark, fifty in the sun."""
    asked: list[tuple[int, float]] = []

    class Capture:
        times = (*(0.1 * t for t in range(5)), *(0.5 + 0.02 * t for t in range(10)))
        now = -1

        def __init__(self, *arguments: object) -> None: ...

        def isOpened(self) -> bool:
            return True

        def set(self, what: int, value: float) -> None:
            asked.append((what, value))

        def grab(self) -> bool:
            self.now += 1
            return self.now < len(self.times)

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, np.full((*SIZE, 3), STEP * self.now, np.uint8)

        def get(self, what: int) -> float:
            return {
                cv2.CAP_PROP_FPS: 25.0,
                cv2.CAP_PROP_FRAME_COUNT: 15.0,
                cv2.CAP_PROP_FRAME_HEIGHT: SIZE[0],
                cv2.CAP_PROP_FRAME_WIDTH: SIZE[1],
                cv2.CAP_PROP_POS_MSEC: 1000 * self.times[min(self.now, 14)] + 40,  # not from 0
            }[what]

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    found = shown(read_video(Path(__file__), KEEP, 10).video)
    assert found == [0, 1, 2, 3, 4, 6, 11]
    assert (cv2.CAP_PROP_ORIENTATION_AUTO, 1) in asked, "not every OpenCV turns pictures by itself"


def test_a_folder_of_frames_keeps_its_rate(tmp_path: Path) -> None:
    for t in range(3):
        cv2.imwrite(str(tmp_path / f"{t}.png"), np.full((*SIZE, 3), STEP * t, np.uint8))
    assert shown(read_video(tmp_path, KEEP, 5).video) == [0, 1, 2]


@pytest.mark.parametrize("suffix", CODECS)
def test_a_segment_holds_the_frames_of_its_seconds(tmp_path: Path, suffix: str) -> None:
    """A sentence of a long recording, after a seek and too early to be worth one."""
    path = tmp_path / f"long{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[suffix]), 25, SIZE[::-1])
    for t in range(500):
        writer.write(np.full((*SIZE, 3), STEP * (t % 50), np.uint8))
    writer.release()
    for start in (0.4, 16.4):
        clip = read_video(Segment(path, start, start + 1), KEEP, 25)
        assert not clip.odd and len(clip.video) == 25
        assert np.abs(np.array(shown(clip.video)) - np.arange(10, 35)).max() <= 1
    assert len(read_video(Segment(path, 19, 25), KEEP, 25).video) == 0
    assert read_video(Segment(path, 19, 25), KEEP, 25).odd == ["video breaks off before its end"]
    assert read_video(Segment(path, 30, 31), KEEP, 25).odd == ["starts after the video's end"]
    assert read_video(Segment(tmp_path, 0, 1), KEEP, 25).odd == ["start and end need a video file"]


def test_a_name_with_a_colon_is_a_file_and_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", 5).rename(tmp_path / "10:15_a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_video(Path("10:15_a.mp4"), KEEP, 25).video) == 5


def test_pictures_of_every_kind_are_read_one_folder_deeper(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for t, suffix in enumerate((".png", ".jpg", ".bmp", ".webp")):
        cv2.imwrite(str(tmp_path / "frames" / f"{t}{suffix}"), np.full((*SIZE, 3), 10 * STEP * t, np.uint8))
    black, lossless = np.zeros((*SIZE, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101]
    cv2.imwrite(str(tmp_path / "frames" / "4.webp"), black, lossless)
    assert {frames.image_size(file.read_bytes()) for file in frames.list_frames(tmp_path)} == {SIZE}
    assert shown(read_video(tmp_path, KEEP, 25).video) == [0, 10, 20, 30, 0]
    (tmp_path / "other").mkdir()
    cv2.imwrite(str(tmp_path / "other" / "0.png"), np.zeros((*SIZE, 3), np.uint8))
    assert not read_video(tmp_path, KEEP, 25).video


def test_pictures_and_videos_of_too_many_pixels_are_refused_before_they_take_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
    for width, height in ((2**25, 1), (2**16, 2**16), (0, 1)):
        data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        assert frames.to_jpeg(bytes(data), Resize.parse("short:4096")) is None
    long = np.zeros((1, 20_000, 3), np.uint8)  # fits, but not with a short side of 256
    assert frames.to_jpeg(cv2.imencode(".png", long)[1].tobytes(), Resize.parse("short:256")) is None
    wide = write_video(tmp_path / "wide.avi", 2)
    assert read_video(wide, Resize(4096, "short"), 25).video
    with pytest.raises(OptionError, match="at most 4096"):
        Resize.parse("short:99999")
    monkeypatch.setattr(frames, "MAX_PIXELS", 64 * 48 - 1)
    assert read_video(wide, KEEP, 25).odd == ["frames of too many pixels"]


def test_crop_keeps_the_middle_square_undistorted(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", 25)
    cropped = pixels(read_video(clip, Resize.parse("crop:24"), 25).video[-1])
    assert cropped.shape == (24, 24, 3)
    assert cropped[:, 1:].min() > 80  # the dark quarter lies outside
    squeezed = pixels(read_video(clip, Resize.parse("24"), 25).video[-1])
    assert squeezed.shape == (24, 24, 3)
    assert squeezed[:, :2].max() < 40


def test_broken_videos_are_left_out_in_order_and_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "long.avi", 61)
    data = write_video(tmp_path / "good.avi", 50).read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video", encoding="utf-8")
    whole_mp4 = write_video(tmp_path / "whole.mp4", 50).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole_mp4[: len(whole_mp4) // 2])  # its index was at the end
    write_video(tmp_path / "none.avi", 0)
    capfd.readouterr()
    found = {path.name: read_video(path, KEEP, 25, 60) for path in sorted(tmp_path.iterdir())}
    assert {name: len(clip.video) for name, clip in found.items() if clip.video} == {
        "good.avi": 50,
        "whole.mp4": 50,
    }
    assert {name: clip.odd for name, clip in found.items() if clip.odd} == {
        "cut.avi": ["video breaks off before its end"],
        "cut.mp4": ["no readable video"],
        "empty.mp4": ["no readable video"],
        "long.avi": ["over 60 frames (2.4 seconds): cut it into sentences"],
        "none.avi": ["no readable video"],
        "text.mp4": ["no readable video"],
    }
    lost = read_video(Segment(tmp_path / "cut.avi", 1.6, 1.9), KEEP, 25)
    assert (len(lost.video), lost.odd) == (0, ["video breaks off before its end"])
    assert capfd.readouterr() == ("", "")


def build(folder: Path, data_dir: Path) -> Builder:
    builder = Builder(data_dir=data_dir, language="en_XX", resize="crop:32", fps=25, num_workers=1)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return builder


def test_a_table_of_videos_becomes_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    (folder / "videos").mkdir(parents=True)
    write_video(folder / "videos" / "a.mp4", 50, fps=50)
    (folder / "videos" / "b.mp4").write_bytes(b"broken")
    write_video(folder / "videos" / "c.webm", 10)
    rows = ["id,video,target,split", "a,videos/a.mp4,,test", "b,videos/b.mp4,,test", "c,videos/c.webm,,test"]
    (folder / "clips.csv").write_text("\n".join(rows), encoding="utf-8")
    builder = build(folder, tmp_path / "data")
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"test": 2}
    records = list(builder.as_data_source("test"))
    assert [(record["id"].decode(), record["num_frames"]) for record in records] == [("a", 25), ("c", 10)]
    assert records[0]["video"][0].shape == (32, 32, 3)
    assert builder.info.metadata["odd"]["test"] == {"no readable video, left out": ["b"]}


def test_a_split_without_a_readable_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"broken")
    (tmp_path / "clips.csv").write_text("id,video,target,split\na,a.mp4,,test\n", encoding="utf-8")
    with pytest.raises(AnnotationError, match=r"test has no clip with frames, of 1.*a\.mp4"):
        build(tmp_path, tmp_path / "data")


def test_a_target_that_scores_put_in_normal_form_is_noted_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    write_video(folder / "a.mp4", 3)
    targets = ["fu\u0308r morgen", "明日、雨", "regen…", "für morgen"]
    rows = [f"{number},a.mp4,{target},test" for number, target in enumerate(targets)]
    (folder / "clips.csv").write_text("\n".join(["id,video,target,split", *rows]), encoding="utf-8")
    (split,) = Builder(data_dir=tmp_path, language="de_DE", num_workers=1).check(folder).values()
    assert split.odd == {UNUSUAL: ["0", "2"]}
    assert [clip.target for clip in split.clips] == targets
