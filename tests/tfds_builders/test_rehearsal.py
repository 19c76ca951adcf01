"""A rehearsal corpus has the real texts, names and frame counts, and prepares like the release."""

import json
import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.features import FeatureSource
from sslssaw_jax.errors import UserError
from tests.support.annotations import ANNOTATIONS, requires_phoenix
from tests.support.csl_release import write_release
from tfds_builders.avatar import joints, render
from tfds_builders.avatar.signs import stable_seed
from tfds_builders.csl_daily_qa import annotations as csl
from tfds_builders.features import main as main_features
from tfds_builders.phoenix2014t_qa.annotations import FRAMES, find_files
from tfds_builders.prepare import prepare
from tfds_builders.rehearsal import POSES, csl_daily
from tfds_builders.rehearsal.__main__ import main, rehearse
from tfds_builders.rehearsal.corpus import Clip, Corpus, _render_clip

NAME = "phoenix2014t_qa"
SIZE = (40, 32)  # height, width
QUESTIONS = {
    "train": "train/31May-1 es regnet%Regnet es%REGEN\ntrain/31May-2 es schneit%Was dann%SCHNEE IX",
    "dev": "dev/1June-1 es regnet%Was%REGEN",
    "test": "test/2June-1 es regnet%Was%REGEN\ntest/2June-2 es windet%Was%WIND",
}
CORPUS = (
    "31May-1|31May-1/*.png|-1|-1|Signer07|REGEN|es regnet\nother|other/*.png|-1|-1|Signer02|WIND|es windet\n"
)


@pytest.fixture(scope="module")
def annotations_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotations")
    for split, rows in QUESTIONS.items():
        (folder / f"{split}.txt").write_text(rows, encoding="utf-8")
    (folder / "PHOENIX-2014-T.train.corpus.txt").write_text(CORPUS, encoding="utf-8")
    (folder / "num_frames.train.csv").write_text("name,num_frames\n31May-1,5\n31May-2,7\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(annotations_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    assert len(rehearse(NAME, annotations_dir, out, size=SIZE, num_workers=1).clips) == 5
    return out


@pytest.mark.slow
def test_the_corpus_prepares_to_the_annotated_clips(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(
        "phoenix2014t_qa", tmp_path, manual_dir=corpus, resize="none", num_workers=1, vocab_size=40
    )
    main_features(
        [
            "--format=keypoints",
            "--name=avatar",
            f"--dataset={NAME}",
            f"--data_dir={tmp_path}",
            str(corpus / POSES),
        ]
    )
    source = FeatureSource(find_dataset(tmp_path, NAME), "train", ["avatar"])
    seed = stable_seed("rehearsal", "31May-2")
    places = joints(["SCHNEE", "IX"], 7, signer="Signer01", size=SIZE, seed=seed)
    found = source.read_features(1, 99, None)[0].reshape(7, -1, 3)
    np.testing.assert_allclose(found[..., :2], places, atol=1e-3)
    assert json.loads((folder / "metadata.json").read_text("utf-8"))["odd"] == {
        "train": {},
        "dev": {},
        "test": {},
    }
    clips = [json.loads(line) for line in (folder / "clips.train.jsonl").read_text("utf-8").splitlines()]
    assert clips == [
        {
            "id": "31May-1",
            "num_frames": 5,
            "question": "Regnet es",
            "target": "es regnet",
            "gloss": "REGEN",
            "signer": "Signer07",
            "overlap": False,
        },
        {
            "id": "31May-2",
            "num_frames": 7,
            "question": "Was dann",
            "target": "es schneit",
            "gloss": "SCHNEE IX",
            "signer": "Signer01",
            "overlap": False,
        },
    ]


def test_frames_are_the_rendering_of_the_glosses_without_loss(corpus: Path) -> None:
    seed = stable_seed("rehearsal", "31May-2")
    video = render(["SCHNEE", "IX"], 7, signer="Signer01", size=SIZE, seed=seed)
    files = sorted((corpus / FRAMES / "train" / "31May-2").iterdir())
    assert [file.name for file in files] == [f"images{t:04d}.png" for t in range(1, 8)]
    for file, frame in zip(files, video, strict=True):
        stored = cv2.imread(str(file))
        assert stored is not None
        np.testing.assert_array_equal(stored[..., ::-1], frame)


def test_the_question_files_are_the_given_ones(corpus: Path) -> None:
    files = find_files(corpus)
    for split, rows in QUESTIONS.items():
        assert files[split].questions.read_text(encoding="utf-8") == rows


@pytest.mark.slow
def test_an_unknown_frame_count_depends_on_the_name_alone(
    corpus: Path, annotations_dir: Path, tmp_path: Path
) -> None:
    rehearse(NAME, annotations_dir, tmp_path, limit=1, size=SIZE, num_workers=1)
    again = list((tmp_path / FRAMES / "test" / "2June-1").iterdir())
    assert len(again) == len(list((corpus / FRAMES / "test" / "2June-1").iterdir())) >= 16
    assert not (tmp_path / FRAMES / "test" / "2June-2").exists()  # beyond the limit
    assert (
        find_files(tmp_path)["test"].questions.read_text(encoding="utf-8") == QUESTIONS["test"].split("\n")[0]
    )


@pytest.mark.slow
def test_going_on_renders_only_what_is_not_there_as_wanted(annotations_dir: Path, tmp_path: Path) -> None:
    rehearse(NAME, annotations_dir, tmp_path, size=SIZE, num_workers=1)
    features = tmp_path / FRAMES
    for file in features.glob("*/*/*.png"):
        os.utime(file, (0, 0))
    (features / "train" / "31May-1" / "images0003.png").unlink()
    (features / "train" / ".partial-31May-1").mkdir()  # of a process that was killed
    (features / "dev" / "1June-1" / "images0001.png").write_bytes(b"")
    rehearse(NAME, annotations_dir, tmp_path, size=SIZE, num_workers=1)
    fresh = {file.parent.name for file in features.glob("*/*/*.png") if file.stat().st_mtime > 0}
    assert fresh == {"31May-1", "1June-1"}
    assert len(list((features / "train" / "31May-1").iterdir())) == 5
    assert not list(features.glob("*/.partial*"))


def test_a_clip_of_other_glosses_or_another_signer_is_rendered_again(tmp_path: Path) -> None:
    folder, seen = Path("frames/train/a"), []
    (tmp_path / folder.parent).mkdir(parents=True)
    for glosses, signer in (
        (["IX"], "Signer01"),
        (["IX"], "Signer01"),
        (["SCHNEE"], "Signer01"),
        (["SCHNEE"], "b"),
    ):
        _render_clip(Clip(folder, glosses, 3, signer, 1), tmp_path, "{number}.png", SIZE)
        seen.append((tmp_path / folder / "2.png").read_bytes())
    assert [one == other for one, other in pairwise(seen)] == [True, False, False]


@pytest.mark.slow
def test_frames_of_another_size_are_rendered_again(annotations_dir: Path, tmp_path: Path) -> None:
    for size in (SIZE, (20, 16)):
        rehearse(NAME, annotations_dir, tmp_path, limit=1, size=size, num_workers=1)
    frame = cv2.imread(str(tmp_path / FRAMES / "dev" / "1June-1" / "images0001.png"))
    assert frame is not None
    assert frame.shape[:2] == (20, 16)


@pytest.mark.parametrize("place", [f"{FRAMES}/train/31May-1/1.png", "questions/train.txt"])
def test_files_of_a_release_are_never_replaced(annotations_dir: Path, tmp_path: Path, place: str) -> None:
    real = tmp_path / place
    real.parent.mkdir(parents=True)
    real.write_bytes(b"real")
    with pytest.raises(UserError, match=r"was not made by a rehearsal.*choose another --out"):
        rehearse(NAME, annotations_dir, tmp_path, size=SIZE, num_workers=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [real]
    assert real.read_bytes() == b"real"


@pytest.mark.slow
def test_half_the_frame_rate_is_every_second_frame(
    corpus: Path, annotations_dir: Path, tmp_path: Path
) -> None:
    rehearse(NAME, annotations_dir, tmp_path, size=SIZE, every=2, num_workers=1)
    for whole in (corpus / FRAMES).glob("*/*"):
        half = tmp_path / whole.relative_to(corpus)
        shown = [file.read_bytes() for file in sorted(whole.iterdir())[::2]]
        assert [file.read_bytes() for file in sorted(half.iterdir())] == shown


@pytest.mark.parametrize(("every", "count"), [(1, 3), (2, 2), (4, 1)])
def test_csl_daily_s_map_counts_the_rendered_frames(tmp_path: Path, every: int, count: int) -> None:
    write_release(tmp_path)
    for file in (*(tmp_path / csl.QUESTIONS).iterdir(), tmp_path / csl.LABELS / csl.SPLIT_FILE):
        file.rename(tmp_path / file.name)
    corpus = csl_daily.plan(tmp_path, None, every)
    assert {clip.num_rendered for clip in corpus.clips} == {count}
    _, *rows = corpus.texts[Path(csl.LABELS, csl.MAP_FILE)].splitlines()
    assert rows and all(row.split("|")[2] == f"{count}" for row in rows)


def test_without_train_s_questions_its_clips_get_those_of_dev_under_their_own_names(tmp_path: Path) -> None:
    write_release(tmp_path)
    for file in (*(tmp_path / csl.QUESTIONS).iterdir(), tmp_path / csl.LABELS / csl.SPLIT_FILE):
        file.rename(tmp_path / file.name)
    (tmp_path / "train.txt").unlink()
    corpus = csl_daily.plan(tmp_path, None, every=1)
    (dev,) = corpus.texts[Path(csl.QUESTIONS, "dev.txt")].splitlines()
    train = corpus.texts[Path(csl.QUESTIONS, "train.txt")].splitlines()
    assert [row.split("|")[1] for row in train] == ["S000001_P0000_T00", "S000002_P0001_T00"]
    assert {row.split("|")[6] for row in train} == {dev.split("|")[6]} == {"你儿子几岁？"}
    assert [clip.signer for clip in corpus.clips[:2]] == ["P0000", "P0001"]
    assert "scores on dev mean nothing" in corpus.notes[0]


@pytest.mark.parametrize(("every", "told"), [(1, "--manual_dir=out\n"), (4, "--manual_dir=out --fps=7.5\n")])
def test_the_command_to_prepare_has_the_rate_of_the_rendered_frames(
    every: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = Corpus([], "", {}, SIZE, fps=30.0)
    monkeypatch.setattr("tfds_builders.rehearsal.__main__.rehearse", lambda *_, **__: corpus)
    main(["csl_daily_qa", "--annotations=in", "--out=out", f"--every={every}"])
    assert f"tfds_builders.prepare csl_daily_qa {told}" in capsys.readouterr().out


def test_a_missing_question_file_is_named_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"train.txt.*GBT-code"):
        main(["phoenix2014t_qa", f"--annotations={tmp_path}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("row", ["31May-1", "31May-1,", "31May-1,0", "31May-1,many", ",5", "../x,5"])
def test_a_bad_frame_count_is_named_by_file_and_line(annotations_dir: Path, tmp_path: Path, row: str) -> None:
    for file in annotations_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "num_frames.train.csv").write_text(f"name,num_frames\n{row}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"num_frames.train.csv, line 2"):
        main(["phoenix2014t_qa", f"--annotations={tmp_path}", f"--out={tmp_path / 'out'}"])


@pytest.mark.parametrize("argument", ["--size=210", "--size=0x260", "--size=axb", "--limit=0", "--every=0"])
def test_a_bad_argument_is_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["phoenix2014t_qa", "--annotations=a", "--out=b", argument])
    assert argument.partition("=")[0] in capsys.readouterr().err


@pytest.mark.slow
@requires_phoenix
def test_real_rows_rehearse_and_prepare_with_their_real_frame_counts(tmp_path: Path) -> None:
    rehearse(NAME, ANNOTATIONS / "phoenix2014t_qa", tmp_path / "corpus", limit=2, size=SIZE, num_workers=2)
    folder = prepare(
        "phoenix2014t_qa",
        tmp_path / "data",
        manual_dir=tmp_path / "corpus",
        resize="48",
        num_workers=2,
        vocab_size=100,
    )
    for split in ("train", "dev", "test"):
        counts = (ANNOTATIONS / "phoenix2014t_qa" / f"num_frames.{split}.csv").read_text("utf-8").split()[1:3]
        clips = map(json.loads, (folder / f"clips.{split}.jsonl").read_text("utf-8").splitlines())
        assert [f"{clip['id']},{clip['num_frames']}" for clip in clips] == counts
