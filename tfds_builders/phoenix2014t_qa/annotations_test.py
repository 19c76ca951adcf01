"""Every form of the question files is read the same, every real row is read, every bad row is named."""

import gzip
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.annotations import ANNOTATIONS, requires_phoenix
from tests.support.phoenix_release import write_release
from tfds_builders.annotation import Question
from tfds_builders.phoenix2014t_qa import annotations

ROW = Question("31May-7", "es regnet", "Regnet es", "REGEN IX")


def read_questions(path: Path) -> list[Question]:
    problems: list[str] = []
    rows = annotations.read_questions(path, "train", problems)
    assert not problems
    return list(rows.values())


@pytest.mark.parametrize(
    "text",
    [
        "train/31May-7 es regnet%Regnet es%REGEN IX",
        "train/31May-7 es regnet%Regnet es%REGEN IX\n",
        "\ufefftrain/31May-7 es regnet%Regnet es%REGEN IX\r\n\r\n",
        "31May-7 es regnet%Regnet es%REGEN IX",
        "31May-7%es regnet%Regnet es%REGEN IX",
        "train/31May-7%es regnet%Regnet es%REGEN IX",
        "name%text%question%gloss\n31May-7%es regnet % Regnet es% REGEN IX ",
    ],
)
def test_all_forms_of_a_question_row_read_alike(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(text.encode())
    assert read_questions(path) == [ROW]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("train/31May-7 es regnet%Regnet es", ROW._replace(gloss="")),
        ("train/31May-7 es regnet", ROW._replace(question="", gloss="")),
        ("train/31May-7%Regnet es%REGEN IX", ROW._replace(target="")),
        ("train/31May-7 es regnet%%REGEN IX", ROW._replace(question="")),
        ("31May-7%es regnet%Regnet es", ROW._replace(gloss="")),
        ("31May-7%es regnet", ROW._replace(question="", gloss="")),
    ],
)
def test_a_missing_field_is_empty(tmp_path: Path, text: str, row: Question) -> None:
    path = tmp_path / "train.txt"
    path.write_text(text, encoding="utf-8")
    assert read_questions(path) == [row]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"dev/31May-8 es%Was%REGEN", "of 'dev' in the file of 'train'"),
        (b"train/31May-8 es%Was%REGEN%IX", "expected split/NAME TEXT%QUESTION%GLOSS"),
        (b"train/%Was%REGEN", "expected split/NAME TEXT%QUESTION%GLOSS"),
        (b"train/31May-7 es%Was%REGEN", "second row for the clip 31May-7"),
        (b"train/31May-8 gr\xfcn%Was%REGEN", "not UTF-8"),
    ],
)
def test_a_bad_question_row_is_named_by_file_and_line(tmp_path: Path, row: bytes, reason: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"train/31May-7 es regnet%Regnet es%REGEN IX\n" + row)
    problems: list[str] = []
    assert list(annotations.read_questions(path, "train", problems)) == ["31May-7"]
    assert len(problems) == 1
    assert re.search(f"train.txt, line 2: .*{reason}", problems[0])


def test_a_bad_corpus_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text(f"{annotations.CORPUS_HEADER}\na|a/*.png|-1|-1|Signer01|REGEN\n", encoding="utf-8")
    problems: list[str] = []
    assert annotations.read_corpus(path, problems) == {}
    assert len(problems) == 1
    assert re.search(r"corpus.csv, line 2: .*found 6 fields", problems[0])


def test_quotes_in_a_corpus_row_are_letters(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text('a|a/*.png|-1|-1|Signer01|"REGEN|das "tief\n', encoding="utf-8")
    assert annotations.read_corpus(path, [])["a"].gloss == '"REGEN'


def test_the_corpus_decides_and_oddities_are_reported(tmp_path: Path) -> None:
    write_release(tmp_path, {"train": 4, "dev": 1, "test": 1})
    files = annotations.find_files(tmp_path)
    question_file = files["train"].questions
    lines = question_file.read_text(encoding="utf-8").split("\n")
    lines[1] = lines[1].replace("am tag 1", "an tag 1")
    lines[2] = lines[2].replace("Wo regnet es am Tag 2", "")
    lines[3] = "train/elsewhere es schneit%Was%SCHNEE  IX"
    question_file.write_text("\n".join(lines), encoding="utf-8")
    found = annotations.read_annotations(files)["train"]
    rows, odd = found.clips, found.odd
    assert [row.target for row in rows[1:]] == [
        "am tag 1 regnet es im norden",
        "am tag 2 regnet es im norden",
        "es schneit",
    ]
    assert (rows[2].question, rows[3].gloss, rows[3].signer) == ("", "SCHNEE IX", "")
    assert {
        what.split(",")[0]: [name.rsplit("_", 1)[-1] for name in names] for what, names in odd.items()
    } == {
        "sentence differs from the corpus file's": ["train-1"],
        "empty question": ["train-2"],
        "not in the corpus file": ["elsewhere"],
        "no row in the question file": ["train-3"],
    }


def test_the_labels_of_the_parent_project_stand_in_for_the_corpus_file(tmp_path: Path) -> None:
    write_release(tmp_path, {"train": 3, "dev": 1, "test": 1})
    files = annotations.find_files(tmp_path)
    expected = annotations.read_annotations(files)["train"]
    corpus = annotations.read_corpus(files["train"].corpus, [])
    labels = {
        f"train/{row.name}": {
            "name": f"train/{row.name}",
            "text": row.target,
            "gloss": row.gloss,
            "length": 3,
            "imgs_path": [f"train/{row.name}/images{t:04d}.png" for t in range(1, 4)],
        }
        for row in corpus.values()
    }
    files["train"].corpus.unlink()
    (tmp_path / "labels.train").write_bytes(gzip.compress(pickle.dumps(labels)))
    found = annotations.read_annotations(annotations.find_files(tmp_path))["train"]
    assert not found.problems and not found.odd
    # the labels name no signer
    assert found.clips == [replace(clip, signer="", num_frames=3) for clip in expected.clips]


def test_frames_of_another_size_than_the_releases_are_found(tmp_path: Path) -> None:
    write_release(tmp_path, {"train": 1, "dev": 1, "test": 1})
    resized = tmp_path / "features" / "fullFrame-256x256px"
    (tmp_path / annotations.FRAMES).rename(resized)
    clips = annotations.read_annotations(annotations.find_files(tmp_path))["dev"].clips
    assert clips[0].video.parent == resized / "dev" and clips[0].video.is_dir()


def test_a_sentence_is_never_taken_for_the_question(tmp_path: Path) -> None:
    """`train/NAME%TEXT%QUESTION` lacks its gloss, but has the form of a row that lacks its sentence."""
    write_release(tmp_path, {"train": 1, "dev": 1, "test": 1})
    files = annotations.find_files(tmp_path)
    (given,) = annotations.read_annotations(files)["train"].clips
    files["train"].questions.write_text(
        f"train/{given.name}%{given.target}%{given.question}", encoding="utf-8"
    )
    assert annotations.read_annotations(files)["train"].clips == [given]


@pytest.mark.parametrize(
    "questions", ["questions", "DatasetFile/dialogue_pheonix", "GBT-code/DatasetFile/dialogue_pheonix"]
)
@pytest.mark.parametrize("release", ["", "PHOENIX-2014-T", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T"])
def test_release_and_questions_are_found_where_people_unpack_them(
    tmp_path: Path, release: str, questions: str
) -> None:
    root = tmp_path / release
    write_release(root, {"train": 1, "dev": 1, "test": 1})
    expected = annotations.find_files(root)["dev"]
    (tmp_path / questions).parent.mkdir(parents=True, exist_ok=True)
    (root / "questions").rename(tmp_path / questions)
    found = annotations.find_files(tmp_path)["dev"]
    assert found.corpus == expected.corpus
    assert found.questions.read_text(encoding="utf-8").startswith("dev/")


@requires_phoenix
@pytest.mark.parametrize(("split", "num_rows"), [("train", 7096), ("dev", 519), ("test", 642)])
def test_every_real_row_reads_and_agrees_with_the_corpus(split: str, num_rows: int) -> None:
    folder = ANNOTATIONS / "phoenix2014t_qa"
    problems: list[str] = []
    corpus = annotations.read_corpus(folder / f"PHOENIX-2014-T.{split}.corpus.txt", problems)
    questions = list(annotations.read_questions(folder / f"{split}.txt", split, problems).values())
    assert not problems
    assert len(questions) == num_rows
    assert [(row.name, row.target, row.gloss) for row in questions] == [
        (row.name, row.target, row.gloss) for row in corpus.values()
    ]
    assert all(row.question for row in questions)
