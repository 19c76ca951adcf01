"""Broken files give a line per problem, no other exception, and write nothing outside the folders."""

import gzip
import os
import pickle
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sslssaw_jax.data import video as frames
from sslssaw_jax.workdir import LOCK, LOCK_HOLDER
from tests.support import csl_release, phoenix_release
from tests.support.csl_release import pickled
from tfds_builders.annotation import Annotations, MissingInputError
from tfds_builders.csl_daily_qa import annotations as csl
from tfds_builders.phoenix2014t_qa import annotations as phoenix
from tfds_builders.prepare import main
from tfds_builders.rehearsal.phoenix2014t import _read_counts

LINES_A_FILE, FILES = 250, 8
NAMES = ("../x", "/etc/x", "..", ".", "a/b", "a\\b", "C:\\x", "x" * 300, "a\tb", ".hidden", "", "\u202e")
HAN = "他今年四岁，对吗？"

Read = Callable[[Path, list[str]], dict[str, Any]]
READERS: dict[str, tuple[str, str, Read]] = {
    "corpus": ("c.csv", "NAME|NAME/1/*.png|-1|-1|Signer01|REGEN IX|es regnet", phoenix.read_corpus),
    "questions": (
        "train.txt",
        "train/NAME es regnet%Regnet es%REGEN IX",
        lambda path, problems: phoenix.read_questions(path, "train", problems),
    ),
    "other questions": (
        "train.txt",
        "NAME%es regnet%Regnet es%REGEN IX",
        lambda path, problems: phoenix.read_questions(path, "train", problems),
    ),
    "counts": ("n.csv", "NAME,116", _read_counts),
    "csl questions": (
        "test.txt",
        f"000001|NAME|54|他 今天|{' '.join(HAN)}|他 今年 四 岁|你 儿子 几 岁？||Overlap!",
        lambda path, problems: csl.read_questions(path, "test", {"clip-1": "dev"}, problems),
    ),
    "csl split": ("split_1.txt", "NAME|train", csl.read_split),
    "csl map": ("video_map.txt", f"000001|NAME|54|他 今天|{' '.join(HAN)}|他 今年|r t", csl.read_corpus),
}


def mutated(rng: np.random.Generator, line: str) -> bytes:
    """A line with one to three changes, some of which do no harm."""
    data = line.encode()
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(data) + 1))
        match rng.integers(8):
            case 0:
                data = data[:place]
            case 1:
                old, new = rng.choice([b"|", b"%", b",", b"/", b" ", b"\t", b";"], 2)
                data = data.replace(bytes(old), bytes(new))
            case 2:
                junk = rng.choice(
                    [b"\0", b"\xff", b"\xfe\xff", b"\xed\xa0\x80", b"\r", b"\xe2\x80\xa8", b"\x85"]
                )
                data = data[:place] + bytes(junk) + data[place:]
            case 3:
                text = data.decode("utf-8", errors="ignore")
                data = text.encode(
                    str(rng.choice(["utf-16", "gb18030", "latin-1", "cp500"])), errors="replace"
                )
            case 4:
                data = data[:place] + rng.bytes(int(rng.integers(1, 9))) + data[place:]
            case 5:
                data = data.replace(b"clip", str(rng.choice(NAMES)).encode() + b"clip"[: rng.integers(5)])
            case 6:
                data = data + data
            case 7:
                data = data[place:]
    return data.replace(b"\n", b" ")


@pytest.mark.parametrize("reader", READERS)
def test_every_mutated_line_gives_a_row_or_a_problem_that_names_it(reader: str, tmp_path: Path) -> None:
    file_name, line, read = READERS[reader]
    path, rng = tmp_path / file_name, np.random.default_rng(list(READERS).index(reader))
    for _ in range(FILES):
        good = [line.replace("NAME", f"clip-{rng.integers(200)}") for _ in range(LINES_A_FILE)]
        raw_lines = [mutated(rng, text) for text in good]
        path.write_bytes(b"\n".join(raw_lines))
        problems: list[str] = []
        rows = read(path, problems)
        matches = [re.match(rf"{re.escape(str(path))}, line (\d+): .", problem) for problem in problems]
        assert all(matches) and not any("\n" in problem or "\0" in problem for problem in problems)
        numbers = {int(match[1]) for match in matches if match}
        blank = sum(not data.decode("utf-8", errors="replace").strip("\ufeff").strip() for data in raw_lines)
        assert len(numbers) == len(problems) and len(rows) + len(problems) >= LINES_A_FILE - blank
        assert all((tmp_path / name).resolve().parent == tmp_path and name.isprintable() for name in rows)
        assert "\0" not in str(rows) and "\ufffd" not in str(rows)


class Code:
    """Runs when it is unpickled, unless that is prevented."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def labels() -> dict[str, Any]:
    """The contents of the parent project's `labels.train`."""
    return {
        f"train/clip-{i}": {"name": f"train/clip-{i}", "text": "es regnet", "gloss": "REGEN", "length": 3}
        for i in range(20)
    }


PICKLES: dict[str, tuple[str, Callable[[], Any], Callable[[bytes], bytes], Read]] = {
    "labels": ("labels.train", labels, partial(gzip.compress, mtime=0), phoenix.read_corpus),
    "csl": (csl.PICKLE_FILE, pickled, bytes, csl.read_corpus),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PICKLES)
def test_every_mutated_pickle_gives_rows_or_problems(kind: str, tmp_path: Path) -> None:
    name, content, pack, read = PICKLES[kind]
    path, rng = tmp_path / name, np.random.default_rng(0)
    for i in range(1500):
        data = bytearray(pickle.dumps(content(), protocol=i % 6))
        if i % 3 == 0:
            del data[rng.integers(len(data)) :]
        for _ in range(i % 4):
            if data:
                data[rng.integers(len(data))] = rng.integers(256)
        packed = bytearray(pack(bytes(data)))
        if i % 7 == 0:
            packed[rng.integers(len(packed))] = rng.integers(256)
        path.write_bytes(packed)
        problems: list[str] = []
        rows = read(path, problems)
        assert all(problem.startswith(f"{path}") for problem in problems)
        assert all((tmp_path / row).resolve().parent == tmp_path for row in rows)


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_cannot_run_code(kind: str, protocol: int, tmp_path: Path) -> None:
    name, _, pack, read = PICKLES[kind]
    (tmp_path / name).write_bytes(pack(pickle.dumps({"info": [Code(tmp_path / "trace")]}, protocol)))
    problems: list[str] = []
    assert read(tmp_path / name, problems) == {}
    assert len(problems) == 1 and problems[0].startswith(f"{tmp_path / name}: ")
    assert f"{os.mkdir.__module__}.mkdir, which could run code" in problems[0]
    (tmp_path / name).write_bytes(pack(pickle.dumps({"info": [np.ones(2)]}, protocol)))
    assert read(tmp_path / name, problems) == {} and "which could run code" in problems[1]
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"\0" * 5_000_000), "more than 4,000,000 bytes"),
        (b"})" + b"\x85" * 200_000 + b"I1\ns.", "tuples in tuples, 100 deep"),
        (
            pickle.dumps({"info": [{"name": "x", "label_gloss": ["y" * 5000] * 4, "label_char": []}]}),
            "a sentence's length",
        ),
        (
            pickle.dumps({"info": [{"name": "x", "label_gloss": "y" * 20_000, "label_char": []}]}),
            "more than 10,000 characters",
        ),
    ],
    ids=["size", "depth", "joined", "long"],
)
def test_a_pickle_that_would_take_the_machine_is_a_problem(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfds_builders.annotation._MAX_BYTES", 4_000_000)
    problems: list[str] = []
    (tmp_path / csl.PICKLE_FILE).write_bytes(data)
    assert csl.read_corpus(tmp_path / csl.PICKLE_FILE, problems) == {}
    assert len(problems) == 1 and message in problems[0]


@pytest.mark.parametrize("content", [None, 3, "text", [], {"info": 3}, {"info": [3, {}, {"name": 3}]}])
@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_of_something_else_is_a_problem(kind: str, content: Any, tmp_path: Path) -> None:
    name, _, pack, read = PICKLES[kind]
    (tmp_path / name).write_bytes(pack(pickle.dumps(content)))
    problems: list[str] = []
    assert read(tmp_path / name, problems) == {} and problems


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_mutated_frame_is_decoded_or_left_out_and_reported(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = cv2.imencode(suffix, phoenix_release.picture(0))[1].tobytes()
    for i in range(400):
        data = bytearray(good)
        for _ in range(i % 5):
            data[rng.integers(len(data))] = rng.integers(256)
        if i % 3 == 0:
            del data[rng.integers(len(data)) :]
        (tmp_path / f"images{i:04d}{suffix}").write_bytes(data)
    bomb = bytearray(good)
    bomb[16:24] = b"\x7f\xff\xff\xff" * 2
    (tmp_path / f"images0400{suffix}").write_bytes(bomb)
    (tmp_path / f"images0401{suffix}").mkdir()
    clip = frames.read_video(tmp_path, frames.Resize(side=16), fps=25)
    assert 0 < len(clip.video) < 401 and len(clip.video) + len(clip.unreadable) == 401
    assert clip.odd[0] == "frames unreadable, dropped"
    assert {frames.image_size(frame) for frame in clip.video} == {(16, 16)}


@pytest.mark.parametrize("kind", [b"IDAT", b"IEND"])
def test_a_png_that_claims_a_chunk_longer_than_itself_is_not_decoded(
    kind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(cv2.imencode(".png", phoenix_release.picture(0))[1])
    assert frames.image_size(bytes(data))
    place = data.index(kind)
    data[place - 4] = 0x8C
    monkeypatch.delattr(cv2, "imdecode")  # it would reserve 2 GB
    assert frames.to_jpeg(bytes(data), frames.Resize(side=16)) is None


def _break(rng: np.random.Generator, folder: Path) -> None:
    """Removes, empties or cuts a file or folder of a release, or replaces it with a folder."""
    paths = sorted(path for path in folder.rglob("*"))
    path = paths[rng.integers(len(paths))]
    data = path.read_bytes() if path.is_file() else b""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    match rng.integers(4):
        case 0:
            path.mkdir()
        case 1:
            path.write_bytes(b"")
        case 2:
            path.write_bytes(data[: len(data) // 2])


def _read_phoenix(folder: Path) -> dict[str, Annotations]:
    return phoenix.read_annotations(phoenix.find_files(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "read"),
    [
        (
            lambda folder: phoenix_release.write_release(folder, {"train": 3, "dev": 1, "test": 1}),
            _read_phoenix,
        ),
        (csl_release.write_release, lambda folder: csl.read_annotations(csl.find_files(folder))),
    ],
    ids=["phoenix", "csl"],
)
def test_every_broken_tree_is_read_or_reported(
    write: Callable[[Path], None], read: Callable[[Path], dict[str, Annotations]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path / "good")
    outcomes = set()
    for i in range(150):
        folder = tmp_path / f"{i}"
        shutil.copytree(tmp_path / "good", folder)
        for _ in range(rng.integers(1, 4)):
            _break(rng, folder)
        try:
            splits = read(folder)
        except MissingInputError as error:
            assert str(folder) in str(error)
            outcomes.add("missing")
            continue
        problems = [problem for split in splits.values() for problem in split.problems]
        assert all(str(folder) in problem for problem in problems)
        for split in splits.values():
            for clip in split.clips:
                frames.read_video(clip.video, frames.Resize(), fps=25)
        outcomes.add("problems" if problems else "read")
        shutil.rmtree(folder)
    assert outcomes == {"missing", "problems", "read"}


def test_check_lists_all_problems_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = tmp_path / "release"
    phoenix_release.write_release(release, {"train": 4, "dev": 2, "test": 1})
    files = phoenix.find_files(release)
    with files["dev"].corpus.open("ab") as file:
        file.write(b"no row\n\xff|a|b|c|d|e|f\n")
    with files["test"].questions.open("a") as file:
        file.write("\ntest/../../escape es regnet%Was%REGEN")
    clip = files["train"].frames / phoenix_release.clip_name("train", 1)
    (clip / "images0002.png").write_bytes(b"")
    larger = cv2.resize(phoenix_release.picture(0), (50, 60))
    (files["dev"].frames / phoenix_release.clip_name("dev", 1) / "images0003.png").write_bytes(
        cv2.imencode(".png", larger)[1].tobytes()
    )
    arguments = ["phoenix2014t_qa", f"--manual_dir={release}", "--resize=none", "--num_workers=1"]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match="4 problems"):
        main([*arguments, f"--data_dir={tmp_path / 'data'}", "--check"])
    assert sorted(tmp_path.rglob("*")) == before
    output = capsys.readouterr().out
    for words in (
        "dev.corpus.csv, line 4: expected name|video",
        "dev.corpus.csv, line 5: not UTF-8",
        "test.txt, line 2: '../../escape' cannot be the name of a clip",
        "frame 3 has 60 x 50 pixels, the earlier frames have 40 x 32",
        f"odd: 1 file: not an image: {clip / 'images0002.png'}",
    ):
        assert words in output
    with pytest.raises(SystemExit, match=r"line 4: (.|\n)*line 5: (.|\n)*escape"):
        main([*arguments, f"--data_dir={tmp_path / 'data'}"])
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {
        *(path for path in before if path.is_file()),
        *(tmp_path / "data" / ".preparing-phoenix2014t_qa" / name for name in (LOCK, LOCK_HOLDER)),
    }


def test_frames_of_several_sizes_are_refused_without_a_square(tmp_path: Path) -> None:
    release = tmp_path / "release"
    phoenix_release.write_release(release, {"train": 2, "dev": 1, "test": 1})
    for file in (release / phoenix.FRAMES / "train" / phoenix_release.clip_name("train", 1)).iterdir():
        file.write_bytes(cv2.imencode(".png", cv2.resize(phoenix_release.picture(0), (50, 60)))[1].tobytes())
    arguments = ["phoenix2014t_qa", f"--manual_dir={release}", f"--data_dir={tmp_path / 'data'}"]
    with pytest.raises(
        SystemExit, match=r"60 x 50 pixels.*40 x 32 pixels: choose a square, such as --resize=256"
    ):
        main([*arguments, "--resize=none", "--num_workers=1"])
    assert not list((tmp_path / "data").rglob("*.array_record*"))


def test_check_lists_all_problems_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "own" / "clips.csv"
    table.parent.mkdir()
    rows = [f"c{number},c{number}.mp4,a sentence,trian" for number in range(15)]
    table.write_text("\n".join(["id,video,target,split", *rows]))
    arguments = ["custom_qa", f"--manual_dir={table.parent}", f"--data_dir={tmp_path}", "--language=en_XX"]
    with pytest.raises(SystemExit, match="15 problems: custom_qa cannot be prepared"):
        main([*arguments, "--check"])
    assert capsys.readouterr().out.count("problem: ") == 15


def test_check_names_every_clip_that_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good").mkdir()
    cv2.imwrite(str(tmp_path / "good" / "0.png"), phoenix_release.picture(0))
    rows = [
        "good,good,a sentence,test",
        *(f"bad{number},bad{number}.mp4,a sentence,test" for number in range(9)),
    ]
    for number in range(9):
        (tmp_path / f"bad{number}.mp4").write_bytes(b"no video")
    (tmp_path / "clips.csv").write_text("\n".join(["id,video,target,split", *rows]))
    with pytest.raises(SystemExit):
        main(["custom_qa", f"--manual_dir={tmp_path}", "--language=en_XX", "--check", "--num_workers=1"])
    assert ", ".join(f"bad{number}" for number in range(9)) in capsys.readouterr().out
