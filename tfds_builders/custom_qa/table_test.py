"""A table reads as RFC 4180 and JSON lines say, and what cannot be read is named with its line."""

import json
from pathlib import Path

import pytest

from tfds_builders.annotation import AnnotationError, MissingInputError
from tfds_builders.custom_qa.table import find_table, read_table

ROWS = [
    {
        "id": "a",
        "video": "a.mp4",
        "target": 'it rains, "hard"',
        "split": "train",
        "question": "Does it\nrain?",
    },
    {"id": "b", "video": "b", "target": "it snows", "split": "train", "question": ""},
    {"id": "c", "video": "c.mp4", "target": "es ist kühl", "split": "dev", "question": "Ist es kühl?"},
    {"id": "d", "video": "c.mp4", "target": "明天下雨", "split": "test", "question": "明天呢？"},
]
HEADER = "id,video,target,split"


def write(folder: Path, text: str, name: str = "clips.csv", encoding: str = "utf-8") -> Path:
    for video in ("a.mp4", "c.mp4"):
        (folder / video).write_bytes(b"a video")
    (folder / "b").mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def csv_text(rows: list[dict[str, str]]) -> str:
    quoted = [['"' + value.replace('"', '""') + '"' for value in row.values()] for row in rows]
    return "\r\n".join([",".join(rows[0]), *map(",".join, quoted)])


def test_csv_and_json_lines_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "csv").mkdir()
    text = "\n".join(json.dumps({key: value for key, value in row.items() if value}) for row in ROWS)
    from_json = read_table(write(tmp_path / "json", text, "clips.jsonl"))
    from_csv = read_table(write(tmp_path / "csv", csv_text(ROWS) + "\r\n\r\n,,,,\r\n", encoding="utf-8-sig"))
    assert list(from_csv) == list(from_json) == ["train", "dev", "test"]
    for split in from_csv:
        for row, other in zip(from_csv[split].clips, from_json[split].clips, strict=True):
            assert (row.name, row.question, row.target) == (other.name, other.question, other.target)
    first, second = from_csv["train"].clips
    assert (first.name, first.video) == ("a", tmp_path / "csv" / "a.mp4")
    assert (first.question, first.target) == ("Does it rain?", 'it rains, "hard"')
    assert (second.question, second.gloss, second.signer) == ("", "", "")


def test_clips_to_translate_need_one_split_and_no_targets(tmp_path: Path) -> None:
    splits = read_table(write(tmp_path, f"{HEADER}\nx,a.mp4,,test\ny,c.mp4,,test\n"))
    assert {split: [clip.target for clip in found.clips] for split, found in splits.items()} == {
        "test": ["", ""]
    }


def test_a_video_that_is_not_there_is_left_out_and_a_split_without_any_is_an_error(tmp_path: Path) -> None:
    found = read_table(write(tmp_path, f"{HEADER}\nx,away.mp4,,test\ny,c.mp4,,test\n"))["test"]
    assert [clip.name for clip in found.clips] == ["y"]
    assert found.odd == {"video not there, left out": ["x"]} and found.missing == ["x"]
    with pytest.raises(MissingInputError, match=r"no video of test is there: .*away\.mp4"):
        read_table(write(tmp_path, f"{HEADER}\nx,away.mp4,,test\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: no column 'id'; a table has id, video, target, split, and may have question"),
        ("id;video;target;split\n", r"line 1: no column 'id'.*found id;video;target;split; .* by commas"),
        (f"{HEADER},qestion\n", r"line 1: column 'qestion' is unknown or there twice"),
        (f"{HEADER},id\n", r"line 1: column 'id' is unknown or there twice"),
        (f"{HEADER}\n", r"clips\.csv has no rows"),
        (f"{HEADER}\nx,a.mp4,it rains, hard,test\n", r"line 2: 5 fields where the header has 4; .*quotes"),
        (f'{HEADER}\nx,a.mp4,"it\nrains",test\ny,,it rains,test\n', r"line 4: no video"),
        (f'{HEADER}\nx,a.mp4,"it rains,test\n', r"line 2: unexpected end of data"),
        (f'{HEADER}\nx,a.mp4,"it" rains,test\n', r"line 2: .*expected after"),
        (f"{HEADER}\nx,a.mp4,{'r' * 200_000},test\n", r"line 2: field larger"),
        (f"{HEADER}\nx,a.mp4,it rains,valid\n", r"line 2: the split is 'valid'; allowed: train, dev, test"),
        (f"{HEADER}\nx,a.mp4,it\0rains,test\n", r"line 2: a control character"),
        (f"{HEADER}\nx,a.mp4,,test\nx,c.mp4,,test\n", r"line 3: a second row for the clip x"),
        (f"{HEADER}\n../x,a.mp4,,test\n", r"line 2: '../x' cannot be the name of a clip"),
        (f"{HEADER}\n..,a.mp4,,test\n", r"line 2: '..' cannot be the name of a clip"),
        (f"{HEADER}\n{'ü' * 101},a.mp4,,test\n", r"line 2: 'ü+' cannot be the name of a clip"),
        (f"{HEADER}\nx,a.mp4,it rains,train\n", r"has train clips, but none in dev and test: .*tenth"),
        (f"{HEADER}\nx,a.mp4,it rains,train\ny,a.mp4,it rains,val\n", r"line 3: the split is 'val'"),
        (csv_text(ROWS).replace("it snows", ""), r"line 4: no target"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_table(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "line 1: no column 'id'"),
        ('\n\n{"id": "x"', "line 3: expected"),
        ("[" * 100_000, "line 1: expected"),
        ('["id"]', "line 1: expected .*all values in quotes"),
        (
            '{"id": 7, "video": "a.mp4", "target": "", "split": "test"}',
            "line 1: expected .*all values in quotes",
        ),
        ('{"id": "\\ud800", "video": "a.mp4", "target": "", "split": "test"}', "line 1: .*half a character"),
    ],
)
def test_json_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_table(write(tmp_path, text, "clips.jsonl"))


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="line 2: not UTF-8"):
        read_table(write(tmp_path, f"{HEADER}\nx,a.mp4,kühl,test\n", encoding="latin-1"))


def test_one_table_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"no table of clips.*clips\.csv or clips\.jsonl"):
        find_table(tmp_path)
    write(tmp_path, HEADER)
    assert find_table(tmp_path).name == "clips.csv"
    write(tmp_path, "", "clips.jsonl")
    with pytest.raises(AnnotationError, match=r"both clips\.csv and clips\.jsonl"):
        find_table(tmp_path)
