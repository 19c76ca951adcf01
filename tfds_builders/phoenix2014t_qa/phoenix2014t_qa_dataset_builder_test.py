"""Frames come back as they were, in order, and broken ones are left out and reported."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from sslssaw_jax.data.video import OptionError, Resize, image_size, read_video, to_jpeg
from tests.support.phoenix_release import SIZE, clip_name, picture, write_release
from tfds_builders.annotation import AnnotationError
from tfds_builders.phoenix2014t_qa import phoenix2014t_qa_dataset_builder as phoenix
from tfds_builders.phoenix2014t_qa.annotations import FRAMES

NUM_CLIPS = {"train": 2, "dev": 1, "test": 1}
JPEG_ERROR = 3.0  # mean absolute error of a smooth picture at quality 95, of 255


def build(release: Path, data_dir: Path, resize: str = "256", **options: Any) -> phoenix.Builder:
    builder = phoenix.Builder(data_dir=data_dir, resize=resize, num_workers=1, **options)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=release))
    return builder


def read(builder: phoenix.Builder, split: str) -> list[dict]:
    """The records as stored: texts and JPEG frames are bytes."""
    features = tfds.features.FeaturesDict(
        {**builder.info.features, "video": tfds.features.Sequence(tfds.features.Text())}
    )
    raw_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(split, deserialize_method=raw_bytes)
    return [features.deserialize_example_np(record) for record in source]


def decode(jpeg: bytes) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return bgr[..., ::-1]


def test_png_frames_come_back_within_jpeg_error(tmp_path: Path) -> None:
    write_release(tmp_path / "release", NUM_CLIPS)
    records = read(build(tmp_path / "release", tmp_path / "data", "none"), "train")
    assert len(records) == 2
    for i, record in enumerate(records):
        assert (record["id"].decode(), record["num_frames"]) == (clip_name("train", i), 3)
        assert record["question"].decode() == f"Wo regnet es am Tag {i}"
        for t, jpeg in enumerate(record["video"]):
            error = np.abs(decode(jpeg).astype(float) - picture(100 * i + t)).mean()
            assert error < JPEG_ERROR


def test_both_frame_layouts_give_the_same_dataset(tmp_path: Path) -> None:
    write_release(tmp_path / "flat", NUM_CLIPS)
    write_release(tmp_path / "nested", NUM_CLIPS, inner_folder="1")
    stray = tmp_path / "nested" / FRAMES / "train" / clip_name("train", 0)
    for file in (stray / "notes.txt", stray / "1" / "Thumbs.db", stray / "1" / "._images0001.png"):
        file.write_text("no frame", encoding="utf-8")
    flat = build(tmp_path / "flat", tmp_path / "flat_data", "48")
    nested = build(tmp_path / "nested", tmp_path / "nested_data", "48")
    assert decode(read(flat, "dev")[0]["video"][0]).shape == (48, 48, 3)
    for split in NUM_CLIPS:
        for a, b in zip(read(flat, split), read(nested, split), strict=True):
            assert list(a["video"]) == list(b["video"])
            assert a["id"] == b["id"]


def test_jpeg_frames_pass_through_unchanged_without_resize(tmp_path: Path) -> None:
    write_release(tmp_path / "release", NUM_CLIPS, suffix=".jpg")
    files = sorted((tmp_path / "release" / FRAMES / "test" / clip_name("test", 0)).iterdir())
    record = read(build(tmp_path / "release", tmp_path / "data", "none"), "test")[0]
    assert list(record["video"]) == [file.read_bytes() for file in files]


def test_a_picture_is_stored_as_its_exif_data_turns_it() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"  # orientation 6: a quarter turn
    plain = cv2.imencode(".jpg", picture(0))[1].tobytes()
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    stored = to_jpeg(turned, Resize.parse("none"))
    assert (
        stored and image_size(plain) == SIZE and image_size(stored) == decode(stored).shape[:2] == SIZE[::-1]
    )
    expected = np.rot90(picture(0), -1)[..., ::-1]
    assert np.abs(decode(stored).astype(float) - expected).mean() < 2 * JPEG_ERROR


def test_two_files_of_one_frame_number_leave_the_clip_out(tmp_path: Path) -> None:
    for name in ("images0001.png", "images0002.png", "images2.jpg"):
        cv2.imwrite(str(tmp_path / name), picture(0))
    found = read_video(tmp_path, Resize(), 25)
    assert (found.video, found.odd) == ([], ["two files of one frame number"])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["images0001.png", "images0002.png"], []),
        (["take2_0001.png", "take2_0002.png"], []),
        (["0001.png", "0001_64x64.png"], ["files of several kinds"]),
        (["0001.png", "cover.png"], ["files of several kinds"]),
        (["0.25.png", "0.5.png"], ["decimal numbers as file names"]),
    ],
)
def test_files_that_may_be_no_frames_are_noted(tmp_path: Path, names: list[str], told: list[str]) -> None:
    for name in names:
        cv2.imwrite(str(tmp_path / name), picture(0))
    found = read_video(tmp_path, Resize(), 25)
    assert len(found.video) == 2
    assert [odd.partition(" (")[0] for odd in found.odd] == told


def test_broken_clips_are_left_out_in_order_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfds_builders.video_qa_builder.CLIPS_PER_SHARD", 2)
    write_release(tmp_path / "release", {"train": 7, "dev": 1, "test": 1})
    train = tmp_path / "release" / FRAMES / "train"
    for i in (1, 5, 6):  # the last shard holds no clip at all
        for file in (train / clip_name("train", i)).iterdir():
            file.unlink()
    (train / clip_name("train", 5)).rmdir()
    (train / clip_name("train", 2) / "images0002.png").write_bytes(b"\x89PNG cut short")
    (train / clip_name("train", 3) / "images0002.png").unlink()
    with pytest.raises(
        AnnotationError, match=r"3 of the 7 clips of train are missing .*train-1.*--max_missing"
    ):
        build(tmp_path / "release", tmp_path / "refused", "none")
    assert not list((tmp_path / "refused").rglob("*.array_record"))
    builder = build(tmp_path / "release", tmp_path / "data", "none", max_missing=0.5)
    records = read(builder, "train")
    assert [record["id"].decode() for record in records] == [clip_name("train", i) for i in (0, 2, 3, 4)]
    assert [len(record["video"]) for record in records] == [3, 2, 2, 3]
    assert builder.info.metadata["odd"]["train"] == {
        "no frames, left out": [clip_name("train", i) for i in (1, 5, 6)],
        "frames unreadable, dropped": [clip_name("train", 2)],
        "frames absent between others": [clip_name("train", 3)],
    }


def test_texts_alone_are_those_of_the_whole_dataset_and_need_only_the_question_files(tmp_path: Path) -> None:
    write_release(tmp_path / "release", NUM_CLIPS)
    whole = read(build(tmp_path / "release", tmp_path / "data", "48"), "train")
    (tmp_path / "release" / "questions").rename(tmp_path / "questions")
    texts = read(build(tmp_path / "questions", tmp_path / "texts", text_only=True), "train")
    for text, record in zip(texts, whole, strict=True):
        assert (len(text["video"]), text["num_frames"]) == (0, 0)
        assert all(text[key] == record[key] for key in ("id", "question", "target"))


def test_a_split_whose_clips_are_all_absent_is_found_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_release(tmp_path / "release", NUM_CLIPS)
    for clip in (tmp_path / "release" / FRAMES / "test").iterdir():
        shutil.rmtree(clip)
    monkeypatch.setattr(phoenix.Builder, "_stream", None)  # nothing is read
    with pytest.raises(AnnotationError, match=r"test has no clip with frames"):
        build(tmp_path / "release", tmp_path / "data")


def test_a_split_without_any_frames_is_an_error(tmp_path: Path) -> None:
    write_release(tmp_path / "release", NUM_CLIPS, num_frames=0)
    with pytest.raises(AnnotationError, match=r"train has no clip with frames, of 2.*train-0.*RWTH"):
        build(tmp_path / "release", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    splits = phoenix.Builder(data_dir=tmp_path / "data", num_workers=1).check(tmp_path / "release")
    assert [len(split.problems) for split in splits.values()] == [1, 1, 1]
    assert splits["train"].odd == {"no frames, left out": [clip_name("train", i) for i in range(2)]}


@pytest.mark.parametrize(
    ("text", "size"),
    [("256", (256, 256)), ("short:64", (80, 64)), ("none", SIZE), ("short:16", (20, 16)), ("crop:8", (8, 8))],
)
def test_resize_means_a_square_or_the_short_side(text: str, size: tuple[int, int]) -> None:
    assert Resize.parse(text).size(*SIZE) == size


@pytest.mark.parametrize("text", ["0", "256s", "short", "-1", ""])
def test_an_unknown_resize_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(OptionError, match=f"'{text}'.*short:256"):
        Resize.parse(text)
