"""Every layout of CSL-Daily reads the same; its quirks are handled and reported."""

import gzip
import json
import pickle
from pathlib import Path

import pytest

from tests.support.annotations import ANNOTATIONS, requires_csl, requires_labels
from tests.support.csl_release import CLIPS, GLOSS, QUESTION, TARGET, write_release
from tfds_builders.annotation import Annotations
from tfds_builders.csl_daily_qa import annotations
from tfds_builders.csl_daily_qa.annotations import FRAMES, MAP_FILE, PICKLE_FILE, unify
from tfds_builders.csl_daily_qa.csl_daily_qa_dataset_builder import Builder
from tfds_builders.prepare import main, prepare

QUIRKS = {
    "not annotated, and no row in the question file, left out": ["S000005_P0004_T00"],
    "not in split_1.txt, kept in train": ["S000007_P0003_T00"],
}


def read(folder: Path) -> dict[str, Annotations]:
    return annotations.read_annotations(annotations.find_files(folder))


@pytest.mark.parametrize("labels", [PICKLE_FILE, MAP_FILE])
@pytest.mark.parametrize("frames", [FRAMES, "sentence_frames-512x512/frames_512x512"])
@pytest.mark.parametrize("root", [".", "CSL-Daily"])
def test_all_layouts_read_alike(tmp_path: Path, root: str, frames: str, labels: str) -> None:
    write_release(tmp_path / root, frames=frames, labels=labels)
    found = read(tmp_path)
    assert not [problem for split in found.values() for problem in split.problems]
    assert {split: len(part.clips) for split, part in found.items()} == {"train": 3, "dev": 1, "test": 1}
    clip = found["test"].clips[0]
    assert (clip.target, clip.question, clip.gloss) == (TARGET, QUESTION, " ".join(GLOSS))
    assert (clip.signer, clip.overlap, clip.video.is_dir()) == ("P0004", False, True)
    assert found["train"].odd == QUIRKS


def test_the_mark_of_an_overlap_is_kept_and_frames_are_counted(tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    (tmp_path / "release" / FRAMES / "S000007_P0003_T00" / "000002.jpg").unlink()
    folder = prepare("csl_daily_qa", tmp_path / "data", manual_dir=tmp_path / "release", num_workers=1)
    odd = json.loads((folder / "metadata.json").read_text("utf-8"))["odd"]
    assert odd["train"] == QUIRKS | {"fewer frames than the annotations say": ["S000007_P0003_T00"]}
    assert not odd["dev"]
    lines = (folder / "clips.train.jsonl").read_text("utf-8").splitlines()
    clips = {clip["id"][:7]: clip for clip in map(json.loads, lines)}
    assert {name: clip["overlap"] for name, clip in clips.items()} == {
        "S000001": False,
        "S000002": True,
        "S000007": False,
    }
    assert clips["S000002"]["question"] == clips["S000002"]["target"] == TARGET


def test_labels_of_the_parent_project_and_no_train_questions_are_enough(tmp_path: Path) -> None:
    write_release(tmp_path)
    for name in (PICKLE_FILE, annotations.SPLIT_FILE):
        (tmp_path / annotations.LABELS / name).unlink()
    (tmp_path / "questions" / "train.txt").unlink()
    for split in ("train", "dev", "test"):
        rows = {
            name: {"name": name, "gloss": " ".join(GLOSS), "text": TARGET.replace("，", ","), "length": 3}
            for name, given, annotated, _ in CLIPS
            if annotated and (given or "train") == split
        }
        (tmp_path / f"labels.{split}").write_bytes(gzip.compress(pickle.dumps(rows)))
    found = read(tmp_path)
    assert not [problem for split in found.values() for problem in split.problems]
    train, test = found["train"], found["test"].clips[0]
    names = ["S000001_P0000_T00", "S000002_P0001_T00", "S000007_P0003_T00"]
    assert [(clip.name, clip.question, clip.target) for clip in train.clips] == [
        (name, "", TARGET) for name in names
    ]
    assert train.odd == {"empty question, kept": names}
    assert Builder.default_fps == 30
    assert (test.target, test.question, test.num_frames, test.signer) == (TARGET, QUESTION, 3, "P0004")


def test_without_train_s_questions_a_clip_that_the_split_file_lacks_is_kept(tmp_path: Path) -> None:
    write_release(tmp_path)
    (tmp_path / "questions" / "train.txt").unlink()
    found = read(tmp_path)["train"]
    names = ["S000001_P0000_T00", "S000002_P0001_T00", "S000007_P0003_T00"]
    assert [clip.name for clip in found.clips] == names
    assert found.odd["not in split_1.txt, kept in train"] == names[2:]


@requires_labels
def test_the_real_labels_hold_every_annotated_clip() -> None:
    rows = {
        split: annotations.read_corpus(ANNOTATIONS / "csl_daily_labels" / f"labels.{split}", [])
        for split in ("train", "dev", "test")
    }
    assert [len(part) for part in rows.values()] == [18400, 1077, 1176]
    questions = annotations.read_questions(ANNOTATIONS / "csl_daily_qa" / "dev.txt", "dev", {}, [])
    assert all(rows["dev"][name].target == row.target for name, row in questions.items())
    assert all(rows["dev"][name].num_frames == row.num_frames for name, row in questions.items())


@pytest.mark.parametrize("text", ["你儿子几岁?", "你 儿子 几 岁？", "你 儿 子 几 岁 ?", " 你儿子几岁 ？"])
def test_spacing_and_width_are_unified(text: str) -> None:
    assert unify(text) == QUESTION


def test_letters_and_digits_are_half_width() -> None:
    assert unify("ＡＰＰ ６ 张 , 对 !") == "APP6张，对！"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("000001|S1|54|他|他 。|他 。", ""),  # the question is missing
        ("000001|S1|54|他|他 。|他 。|", ""),
        ("000001|S1|54|他|他 。|他 。|谁？", ""),
        ("000001|S1|54|他|他 。|他 。|谁？||Overlap!", ""),
        ("000001|S1|54|他|他 。|他 。|谁？|Overlap!", ""),
        ("000001|S1|54|他|他 。", "expected index|name|"),
        ("000001|S1|54|他|他 。|他 。|谁？|什么？", "expected index|name|"),
        ("000001|S1|many|他|他 。|他 。|谁？|", "expected index|name|"),
        ("000001,S1,54,他,他 。,他 。,谁？,", "expected index|name|"),
        ("000001|S000020_P0000_T00|54|他|他 。|他 。|谁？|", "a row of 'dev' in the file of 'test'"),
        ("000001|../S1|54|他|他 。|他 。|谁？|", "cannot be the name of a clip"),
    ],
)
def test_a_question_row_is_read_or_named(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "test.txt"
    path.write_text(f"\n{row}\n", encoding="utf-8")
    problems: list[str] = []
    rows = annotations.read_questions(path, "test", {"S000020_P0000_T00": "dev"}, problems)
    if reason:
        assert not rows and len(problems) == 1
        assert problems[0].startswith(f"{path}, line 2: ") and reason in problems[0]
    else:
        assert not problems and rows["S1"].target == "他。" and rows["S1"].num_frames == 54


def test_missing_files_are_named_together(tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    (tmp_path / "release" / "questions" / "dev.txt").unlink()
    (tmp_path / "release" / annotations.LABELS / annotations.SPLIT_FILE).unlink()
    with pytest.raises(SystemExit) as error:
        main(["csl_daily_qa", f"--manual_dir={tmp_path / 'release'}", f"--data_dir={tmp_path / 'data'}"])
    for words in ("split_1.txt", "questions/dev.txt", "ask its authors"):
        assert words in str(error.value)


@requires_csl
@pytest.mark.parametrize(("split", "num_rows", "num_copies"), [("dev", 1077, 89), ("test", 1176, 95)])
def test_every_real_row_reads(split: str, num_rows: int, num_copies: int) -> None:
    folder, problems = ANNOTATIONS / "csl_daily_qa", list[str]()
    splits = annotations.read_split(folder / "split_1.txt", problems)
    rows = annotations.read_questions(folder / f"{split}.txt", split, splits, problems).values()
    assert not problems and len(rows) == num_rows
    assert sum(row.question == row.target for row in rows) == num_copies
    assert [list(splits.values()).count(name) for name in ("train", "dev", "test")] == [18401, 1077, 1176]
    assert not [row.name for row in rows if not row.target or set(row.target) & set(" ,?!")]
