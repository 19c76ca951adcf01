"""A table is read as RFC 4180 and JSON lines specify; what cannot be read is named with its line."""

import json
from pathlib import Path

import pytest

from sslssaw_jax.data.video import Segment
from tfds_builders.annotation import Annotation, AnnotationError, MissingInputError
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


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_what_spreadsheets_write_reads_the_same(tmp_path: Path, separator: str) -> None:
    rows = [["ID", " Video", "TARGET", "Split"], ["x", "a.mp4", "rain", "train"]]
    rows += [["y", "a.mp4", "snow", "Val"], ["z", "c.mp4", "fog", "test"]]
    text = "\n".join(separator.join(row) for row in rows)
    found = read_table(write(tmp_path, text, "clips.tsv" if separator == "\t" else "clips.csv"))
    assert {split: [clip.name for clip in part.clips] for split, part in found.items()} == {
        "train": ["x"],
        "dev": ["y"],
        "test": ["z"],
    }


def test_each_text_of_a_row_is_taken_from_its_own_column(tmp_path: Path) -> None:
    header = "signer,gloss,question,target,split,video,id,end,start"
    table = write(tmp_path, f"{header}\nAnna,IX RAIN,Does it rain?,it rains,test,a.mp4,x,2.5,1\n")
    (clip,) = read_table(table)["test"].clips
    video = Segment(tmp_path / "a.mp4", 1.0, 2.5)
    assert clip == Annotation("x", video, "Does it rain?", "it rains", gloss="IX RAIN", signer="Anna")


def test_a_line_of_excel_names_the_separator_above_the_header(tmp_path: Path) -> None:
    text = "sep=;\r\nid;video;target;split\r\nx;a.mp4;rain, snow, fog, hail;test\r\n"
    (clip,) = read_table(write(tmp_path, text))["test"].clips
    assert clip.target == "rain, snow, fog, hail"
    with pytest.raises(AnnotationError, match=r"line 4: the split is 'eval'"):
        read_table(write(tmp_path, f"{text}y;a.mp4;;eval\r\n"))


def test_empty_cells_behind_the_columns_and_blank_rows_are_passed_over(tmp_path: Path) -> None:
    """Spreadsheets leave empty cells where a column or row was cleared."""
    text = f"\ufeff{HEADER},,\r\nx,a.mp4,it rains,test,,\r\n , ,,\r\ny,c.mp4,it snows,test\r\n,,,,,\r\n"
    (found,) = read_table(write(tmp_path, text)).values()
    assert [clip.name for clip in found.clips] == ["x", "y"]


def test_numbers_and_null_in_json_lines_are_texts(tmp_path: Path) -> None:
    times = '"start": 1, "end": 2.5, "gloss": NaN'
    text = f'{{"id": 7, "video": "a.mp4", "target": null, "split": "test", {times}}}'
    (clip,) = read_table(write(tmp_path, text, "clips.jsonl"))["test"].clips
    assert (clip.name, clip.target, clip.gloss) == ("7", "", "")
    assert clip.video == Segment(tmp_path / "a.mp4", 1.0, 2.5)


@pytest.mark.parametrize(
    ("on_disk", "in_table"), [("f\u00fcr.mp4", "fu\u0308r.mp4"), ("fu\u0308r.mp4", "f\u00fcr.mp4")]
)
def test_a_name_is_found_however_its_accents_are_composed(
    tmp_path: Path, on_disk: str, in_table: str
) -> None:
    table = write(tmp_path, f"{HEADER}\nx,{in_table},,test\n")
    (tmp_path / on_disk).write_bytes(b"a video")
    assert read_table(table)["test"].clips[0].video == tmp_path / on_disk


def test_clips_to_translate_need_one_split_and_no_targets(tmp_path: Path) -> None:
    splits = read_table(write(tmp_path, f"{HEADER}\nx,a.mp4,,test\ny,c.mp4,,test\n"))
    assert {split: [clip.target for clip in found.clips] for split, found in splits.items()} == {
        "test": ["", ""]
    }


def test_a_video_that_is_not_there_is_left_out_and_a_split_without_any_is_an_error(tmp_path: Path) -> None:
    found = read_table(write(tmp_path, f"{HEADER}\nx,away.mp4,,test\ny,c.mp4,,test\n"))["test"]
    assert [clip.name for clip in found.clips] == ["y"]
    assert found.odd == {"video not there, left out": ["x"]} and found.missing == ["x"]
    texts = read_table(write(tmp_path, f"{HEADER}\nx,away.mp4,,test\ny,,,test\n"), needs_video=False)["test"]
    assert [clip.name for clip in texts.clips] == ["x", "y"] and not texts.odd
    table = write(tmp_path, "id,target,split\nx,,test\n")
    assert [clip.name for clip in read_table(table, needs_video=False)["test"].clips] == ["x"]
    with pytest.raises(AnnotationError, match="no column 'video'"):
        read_table(table)
    with pytest.raises(MissingInputError, match=r"no video of test is there: .*away\.mp4"):
        read_table(write(tmp_path, f"{HEADER}\nx,away.mp4,,test\n"))


def test_what_spreadsheets_write_for_nothing_is_noted(tmp_path: Path) -> None:
    rows = [
        f"{HEADER},question",
        "w,a.mp4,#N/A,test,",
        "x,a.mp4,rain,test,null",
        "y,a.mp4,null and void,test,",
    ]
    (found,) = read_table(write(tmp_path, "\n".join([*rows, "z,a.mp4,#NAME?,test,Why?"]))).values()
    assert found.odd == {"target or question is #N/A, NULL or the like, kept": ["w", "x", "z"]}


def test_a_video_of_train_is_noted_where_dev_and_test_show_it(tmp_path: Path) -> None:
    rows = ["t,a.mp4,rain,train,0,2", "u,c.mp4,snow,train,,", "v,b,fog,test,,"]
    rows += ["w,a.mp4,sun,dev,2,4", "x,./a.mp4,wind,dev,1.5,4", "y,a.mp4,hail,dev,,", "z,c.mp4,ice,test,7,8"]
    splits = read_table(write(tmp_path, "\n".join([f"{HEADER},start,end", *rows])))
    assert [splits[split].odd for split in ("train", "dev", "test")] == [
        {},
        {"its video is in train, too": ["x", "y"]},
        {"its video is in train, too": ["z"]},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: no column 'id'; a table has id, video, target, split, and may have question"),
        ("id video target split\n", r"line 1: no column 'id'.*found id video target split; .* with commas"),
        ("id;video;target;split\nx;a.mp4;it rains; hard;test\n", r"line 2: 5 fields.*with ';' needs"),
        (f"{HEADER},qestion\n", r"line 1: column 'qestion' is unknown or occurs twice"),
        (f"{HEADER},id\n", r"line 1: column 'id' is unknown or occurs twice"),
        (f"{HEADER}\n", r"clips\.csv has no rows"),
        (f"{HEADER}\nx,a.mp4,it rains, hard,test\n", r"line 2: 5 fields, but the header has 4; .*quotes"),
        (f'{HEADER}\nx,a.mp4,"it\nrains",test\ny,,it rains,test\n', r"line 4: no video"),
        (
            f'{HEADER}\nx,a.mp4,"it rains,test\ny,c.mp4,,test\n',
            r"line 2: unexpected end of data; .*at its end",
        ),
        (f'{HEADER}\nx,a.mp4,"it" rains,test\n', r"line 2: .*expected after"),
        (f"{HEADER}\nx,a.mp4,{'r' * 200_000},test\n", r"line 2: field larger"),
        (f"{HEADER}\nx,a.mp4,it rains,eval\n", r"line 2: the split is 'eval'; allowed: train, dev, test"),
        (f"{HEADER},start,end\nx,a.mp4,,test,3,2\n", r"line 2: start is '3' and end '2'; expected seconds"),
        (f"{HEADER},start,end\nx,a.mp4,,test,,2\n", r"line 2: start is '' and end '2'"),
        (f"{HEADER},start,end\nx,a.mp4,,test,0,nan\n", r"line 2: start is '0' and end 'nan'"),
        (f"{HEADER},start,end\nx,a.mp4,,test,0:01,0:02\n", r"line 2: start is '0:01'"),
        (f"{HEADER}\nx,a.mp4,it\0rains,test\n", r"line 2: a control character"),
        (f"{HEADER}\nx,a.mp4,,test\nx,c.mp4,,test\n", r"line 3: a second row for the clip x"),
        (f"{HEADER}\n../x,a.mp4,,test\n", r"line 2: '../x' cannot be the name of a clip"),
        (f"{HEADER}\n..,a.mp4,,test\n", r"line 2: '..' cannot be the name of a clip"),
        (f"{HEADER}\n{'ü' * 101},a.mp4,,test\n", r"line 2: 'ü+' cannot be the name of a clip"),
        (f"{HEADER}\nx,a.mp4,it rains,train\n", r"has train clips, but none in dev and test: .*tenth"),
        (f"{HEADER}\nx,a.mp4,it rains,train\ny,a.mp4,it rains,val\n", r"none in test"),
        (csv_text(ROWS).replace("it snows", ""), r"line 4: no target"),
        (csv_text(ROWS).replace("it snows", "\u200b"), r"line 4: no target"),
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
        ('["id"]', "line 1: expected .*all values texts or numbers"),
        (
            '{"id": ["x"], "video": "a.mp4", "target": "", "split": "test"}',
            "line 1: expected .*all values te",
        ),
        (
            '{"id": "x", "video": "a.mp4", "target": "it rains", "Target": "it snows", "split": "test"}',
            "line 1: column 'target' is unknown or occurs twice",
        ),
        (
            '{"id": "x", "id": "y", "video": "a.mp4", "target": "", "split": "test"}',
            "line 1: column 'id' is unknown or occurs twice",
        ),
        ('{"id": true, "video": "a.mp4", "target": "", "split": "test"}', "line 1: expected .*all values te"),
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
    with pytest.raises(MissingInputError, match=r"no table of clips.*clips\.csv or clips\.tsv or"):
        find_table(tmp_path)
    write(tmp_path, HEADER)
    assert find_table(tmp_path).name == "clips.csv"
    write(tmp_path, "", "clips.jsonl")
    with pytest.raises(AnnotationError, match=r"has clips\.csv and clips\.jsonl"):
        find_table(tmp_path)
