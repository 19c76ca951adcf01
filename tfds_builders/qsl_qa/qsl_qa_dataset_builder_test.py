"""The rows of QSL-QA are read as they are, with and without frames; unreadable rows are named."""

from pathlib import Path
from typing import Any

import pytest

from sslssaw_jax.workdir import read_jsonl
from tests.support.annotations import ANNOTATIONS, requires_qsl
from tfds_builders.annotation import AnnotationError, MissingInputError
from tfds_builders.prepare import prepare
from tfds_builders.qsl_qa import annotations
from tfds_builders.qsl_qa.qsl_qa_dataset_builder import Builder
from tfds_builders.rehearsal.__main__ import rehearse

ROWS = {
    "train": [
        "/disk1/x/P001/R0003_P001_01Q天安门 广场 有Q有 什么 景点 吗Q那 酒店 好 吗Q有 天安门 广场",
        "/disk1/x/P003/R0864_P003_02Q他家 菜 是 涮(火锅)Q有 什么 特色菜 么?Q那 酒店Q他家 的 菜 是 涮(火锅)",
    ],
    "dev": ["/disk1/x/P005/R0864_P005_01Q他家 菜Q有 啥QaQ他家 的 菜"],
    "test": ["/disk1/x/P002/R0864_P002_01Q他家 菜Q有 啥QaQ他家 的 菜"],
}


@pytest.fixture(scope="module")
def rows_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qsl")
    for split, rows in ROWS.items():
        (folder / f"{split}_slt_2p.txt").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_rehearsal_is_prepared_with_the_rows_texts(rows_dir: Path, tmp_path: Path) -> None:
    rehearse("qsl_qa", rows_dir, tmp_path / "corpus", size=(16, 16), num_workers=1)
    options: dict[str, Any] = {"resize": "none", "num_workers": 1, "vocab_size": 60}
    folder = prepare("qsl_qa", tmp_path / "data", manual_dir=tmp_path / "corpus", **options)
    texts = prepare("qsl_qa", tmp_path / "texts", manual_dir=rows_dir, text_only=True, vocab_size=60)
    first, second = read_jsonl(folder / "clips.train.jsonl")
    assert first["num_frames"] >= 16
    assert {key: second[key] for key in second if key != "num_frames"} == {
        "id": "R0864_P003_02",
        "question": "有什么特色菜么？",
        "target": "他家的菜是涮（火锅）",
        "gloss": "他家 菜 是 涮(火锅)",
        "signer": "P003",
        "overlap": False,
    }
    same = [row | {"num_frames": 0} for row in (first, second)]
    assert same == read_jsonl(texts / "clips.train.jsonl")


def test_a_clip_has_its_own_question_sentence_signer_and_folder(rows_dir: Path) -> None:
    """The fourth field is a question that the sentence does not answer."""
    files = {split: rows_dir / f"{split}_slt_2p.txt" for split in ROWS}
    _, clip = annotations.read_annotations(files, Path("frames"))["train"].clips
    assert (clip.question, clip.target) == ("有什么特色菜么？", "他家的菜是涮（火锅）")
    assert (clip.gloss, clip.signer) == ("他家 菜 是 涮(火锅)", "P003")
    assert clip.video == Path("frames/P003/R0864_P003_02")


@pytest.mark.parametrize("check", [False, True])
def test_a_clip_in_two_splits_is_refused(tmp_path: Path, check: bool) -> None:
    for split, rows in (ROWS | {"test": ROWS["test"] + ROWS["train"][1:]}).items():
        (tmp_path / f"{split}_slt_2p.txt").write_text("\n".join(rows), encoding="utf-8")
    told = "1 of the 2 clips of test are in train, too: R0864_P003_02; keep each in one split"
    builder = Builder(data_dir=tmp_path / "data", text_only=True)
    if check:
        assert builder.check(tmp_path)["test"].problems == [told]
    else:
        with pytest.raises(AnnotationError, match=told):
            prepare("qsl_qa", tmp_path / "data", manual_dir=tmp_path, text_only=True, vocab_size=60)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("/x/P001/R0003_P001_01Q有Q有 吗QaQ", "no sentence"),
        ("/x/P001/R0003Q有Q有 吗QaQ有", "no clip such as R0864_P005_01"),
        ("/x/P001/R0003_P001_01Q有Q有 吗Q有", "expected FRAMESQGLOSSQ"),
        ("/x/P001/R0003_P001_01Q有Q有 吗QaQ有QQ", "expected FRAMESQGLOSSQ"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, row: str, reason: str) -> None:
    path, problems = tmp_path / "dev_slt_2p.txt", list[str]()
    path.write_text(f"{ROWS['dev'][0]}\n{row}\n", encoding="utf-8")
    assert list(annotations.read_questions(path, problems)) == ["R0864_P005_01"]
    assert len(problems) == 1 and problems[0].startswith(f"{path}, line 2: ") and reason in problems[0]


def test_missing_files_are_named_with_their_source(rows_dir: Path) -> None:
    with pytest.raises(MissingInputError, match=rf"{annotations.FRAMES}\. .*ask the authors"):
        annotations.find_files(rows_dir)
    with pytest.raises(MissingInputError, match=r"questions/dev_slt_2p\.txt\. .*GBT-code"):
        annotations.find_files(rows_dir.parent, text_only=True)


@requires_qsl
def test_every_real_row_reads() -> None:
    splits = {}
    for split in ("train", "dev", "test"):
        path, problems = ANNOTATIONS / "qsl_qa" / f"{split}_slt_2p.txt", list[str]()
        splits[split] = list(annotations.read_questions(path, problems).values())
        assert not problems
    assert [len(rows) for rows in splits.values()] == [18024, 6008, 6008]
    assert [len({row.question for row in rows}) for rows in splits.values()] == [38, 26, 26]
    targets, questions = (
        {split: {getattr(row, key) for row in rows} for split, rows in splits.items()}
        for key in ("target", "question")
    )
    assert targets["test"] <= targets["train"] and not questions["test"] & questions["train"]
