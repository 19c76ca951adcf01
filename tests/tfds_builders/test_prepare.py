"""A prepared dataset is whole or absent, whatever happens; every mistake is one clear error."""

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import tensorflow_datasets as tfds

from sslssaw_jax.data.dataset import DatasetFacts, find_dataset
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.workdir import LOCK, LOCK_HOLDER, WorkdirError, locked
from tests.support.killed_preparations import MOMENTS, before_it_appears, kill
from tests.support.phoenix_release import SIZE, clip_name, write_release
from tfds_builders import prepare as prepare_module
from tfds_builders.dataset_folder import write_clips
from tfds_builders.parallel import WorkerError, ordered_map
from tfds_builders.phoenix2014t_qa.annotations import ANNOTATIONS, FRAMES
from tfds_builders.prepare import PrepareError, main, prepare

NAME = "phoenix2014t_qa"
NUM_CLIPS = {"train": 4, "dev": 2, "test": 1}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, NUM_CLIPS)
    return folder


def run(release: Path, data_dir: Path, *, overwrite: bool = False) -> Path:
    return prepare(
        NAME,
        data_dir,
        manual_dir=release,
        resize="none",
        num_workers=1,
        vocab_size=60,
        overwrite=overwrite,
    )


@pytest.fixture(scope="module")
def prepared(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(release, tmp_path_factory.mktemp("data"))


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files below a folder, except the lock's."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in (LOCK, LOCK_HOLDER))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def read_clips(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"clips.{split}.jsonl").read_text("utf-8").splitlines()]


def test_a_row_of_the_clip_list_describes_the_record_of_the_same_index(prepared: Path) -> None:
    builder = tfds.builder_from_directory(prepared)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == NUM_CLIPS
    for split, num_clips in NUM_CLIPS.items():
        clips = read_clips(prepared, split)
        records = builder.as_data_source(split)
        assert len(clips) == len(records) == num_clips
        for clip, record in zip(clips, records, strict=True):
            for key in ("id", "question", "target", "gloss", "signer"):
                assert clip[key] == record[key].decode()
            assert clip["num_frames"] == record["num_frames"] == len(record["video"]) == 3


def test_clips_are_listed_from_more_files_than_the_soft_limit(prepared: Path, tmp_path: Path) -> None:
    builder: Any = tfds.builder_from_directory(prepared)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # stdin, stdout and stderr
        write_clips(builder, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for split in NUM_CLIPS:
        assert read_clips(tmp_path, split) == read_clips(prepared, split)


def test_the_tokenizer_knows_every_piece_of_the_training_texts(prepared: Path) -> None:
    tokenizer = load_tokenizer(prepared / "tokenizer", "de_DE")
    for clip in read_clips(prepared, "train"):
        for text in (clip["target"], clean_question(clip["question"])):
            assert tokenizer.unk_id not in tokenizer.encode(text, 64)


def test_nothing_but_the_dataset_is_left(prepared: Path) -> None:
    data_dir = prepared.parents[1]
    assert sorted(path.name for path in data_dir.iterdir()) == [f".preparing-{NAME}", NAME]
    assert b"incomplete" not in b"".join(
        data for name, data in snapshot(prepared).items() if name.endswith("json")
    )


def test_what_is_prepared_is_left_alone(
    release: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time_of_change = prepared.stat().st_mtime_ns
    assert run(release, prepared.parents[1]) == prepared
    assert "already prepared" in capsys.readouterr().out
    assert prepared.stat().st_mtime_ns == time_of_change


def edit_a_table(release: Path) -> None:
    with (release / "questions" / "dev.txt").open("a", encoding="utf-8") as file:
        file.write("\n")


def edit_a_video(release: Path) -> None:
    (release / FRAMES / "dev" / clip_name("dev", 0) / "images0004.png").touch()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (edit_a_table, {}, r"questions/dev\.txt: changed"),
        (edit_a_video, {}, r"videos: their names, sizes or times changed"),
        (None, {"resize": "16"}, r"--resize: none then, 16 now"),
        (None, {"fps": 30.0}, r"--fps: 25\.0 then, 30\.0 now"),
        (None, {"text_only": True}, r"--text_only: False then, True now"),
        (None, {"vocab_size": 61}, r"--vocab_size: 60 then, 61 now"),
    ],
)
def test_what_is_prepared_from_something_else_is_refused(
    release: Path,
    prepared: Path,
    tmp_path: Path,
    change: Callable[[Path], None] | None,
    options: dict[str, Any],
    message: str,
) -> None:
    before = snapshot(prepared)
    manual_dir = tmp_path / "other"
    if change:
        shutil.copytree(release, manual_dir)
        change(manual_dir)
        message = rf"--manual_dir: release0 then, other now(.|\n)*{message}"
    given = {"resize": "none", "vocab_size": 60} | options
    with pytest.raises(PrepareError, match=rf"{message}(.|\n)*--overwrite, or choose another --data_dir"):
        prepare(NAME, prepared.parents[1], manual_dir=manual_dir if change else release, **given)
    assert snapshot(prepared) == before


def test_a_moved_or_cleared_source_is_the_same_source(release: Path, prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "moved")
    assert run(tmp_path / "moved", prepared.parents[1]) == prepared
    cleared = tmp_path / release.name
    cleared.mkdir()
    assert run(cleared, prepared.parents[1]) == prepared
    assert prepare(NAME, prepared.parents[1], resize="none", vocab_size=60) == prepared


def test_verify_names_what_is_damaged_or_gone(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(prepared.parents[1], tmp_path, dirs_exist_ok=True)
    arguments, folder = [NAME, f"--data_dir={tmp_path}", "--verify"], tmp_path / NAME / "1.0.0"
    main(arguments)
    assert "is as it was prepared" in capsys.readouterr().out
    records = next(folder.glob("*-train.array_record-*"))
    for path, change in {
        records: lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        folder / "clips.dev.jsonl": lambda data: data.replace(b"Wo", b"wo"),
        folder / "tokenizer" / "tokenizer_config.json": None,
        folder / "digests.json": lambda data: data.replace(b'"clips.dev', b'"../clips.dev'),
        folder / "dataset.json": lambda data: data.replace(b"de_DE", b"en_XX"),
    }.items():
        good = path.read_bytes()
        path.write_bytes(change(good)) if change else path.unlink()
        with pytest.raises(SystemExit, match=rf"1 file of .* gone or damaged: .*{path.name}"):
            main(arguments)
        path.write_bytes(good)
    with pytest.raises(SystemExit, match="no prepared dataset csl_daily_qa"):
        main(["csl_daily_qa", f"--data_dir={tmp_path}", "--verify"])


def test_a_dataset_in_a_read_only_folder_is_prepared_already(
    release: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*arguments: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(prepare_module, "locked", read_only)
    assert run(release, prepared.parents[1]) == prepared


@pytest.mark.slow
def test_a_killed_worker_is_one_line() -> None:
    with pytest.raises(WorkerError, match=r"one of 1 processes was killed.*--num_workers"):
        list(ordered_map(kill, [0], 1))


def test_a_dataset_says_how_it_was_prepared(release: Path, prepared: Path, tmp_path: Path) -> None:
    facts = find_dataset(prepared.parents[1], NAME).facts
    assert (facts.language, facts.resize, facts.fps, facts.text_only) == ("de_DE", "none", 25.0, False)
    assert facts.frame_size == SIZE and facts.jpeg_quality == 95
    assert DatasetFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    digests = json.loads((prepared / "digests.json").read_text("utf-8"))
    assert digests == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in snapshot(prepared).items()
        if name not in ("dataset.json", "digests.json")
    }
    smaller = prepare(NAME, tmp_path, manual_dir=release, resize="16", num_workers=1, vocab_size=60)
    assert find_dataset(smaller.parents[1], NAME).facts.fingerprint != facts.fingerprint
    assert find_dataset(smaller.parents[1], NAME).facts.frame_size == (16, 16)


def test_overwriting_gives_the_same_dataset_anew(release: Path, prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared.parents[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / NAME / "1.0.0" / "clips.dev.jsonl").write_text("spoilt", encoding="utf-8")
    run(release, tmp_path, overwrite=True)
    assert snapshot(tmp_path) == snapshot(prepared.parents[1])


def test_a_failure_leaves_what_was_there(
    release: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, vocab_size: int, language: str) -> None:
        assert (folder / "clips.test.jsonl").exists()  # everything but the tokenizer is written
        raise OSError("no space left")

    monkeypatch.setattr(prepare_module, "write_tokenizer", fail)
    with pytest.raises(OSError, match="no space left"):
        run(release, tmp_path)
    assert not snapshot(tmp_path)
    shutil.copytree(prepared.parents[1], tmp_path, dirs_exist_ok=True)
    with pytest.raises(OSError, match="no space left"):
        run(release, tmp_path, overwrite=True)
    assert snapshot(tmp_path) == snapshot(prepared.parents[1])


def test_a_full_disk_is_one_error(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> NoReturn:  # as array_record ends
        raise RuntimeError("write() failed: No space left on device; writing x.array_record; at byte 290816")

    monkeypatch.setattr("tfds_builders.video_qa_builder._StableWriter.write", write)
    told = r"^error: the records cannot be written: write\(\) failed: No space left on device\nOnce that"
    with pytest.raises(SystemExit, match=told):
        main([NAME, f"--manual_dir={release}", f"--data_dir={tmp_path}"])
    assert not snapshot(tmp_path)


@pytest.mark.slow
def test_after_a_kill_the_dataset_is_whole_or_absent_and_preparing_again_works(
    release: Path, prepared: Path, tmp_path: Path
) -> None:
    before = snapshot(prepared.parents[1])
    for moment in MOMENTS:
        shutil.copytree(prepared.parents[1], tmp_path / moment.__name__)
    command = [sys.executable, "-m", "tests.support.killed_preparations", str(tmp_path), NAME]
    command += [
        f"--manual_dir={release}",
        "--resize=none",
        "--num_workers=2",
        "--vocab_size=60",
        "--overwrite",
    ]
    # the output ends with the last process that holds it: no worker remains
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [word for moment in MOMENTS for word in (moment.__name__, "-9")], (
        done.stderr
    )
    for moment in MOMENTS:
        data_dir = tmp_path / moment.__name__
        assert snapshot(data_dir / f".preparing-{NAME}"), "it was killed in the middle"
        there = snapshot(data_dir / NAME)
        assert there == ({} if moment is before_it_appears else snapshot(prepared.parents[1] / NAME))
        run(release, data_dir, overwrite=True)
        assert snapshot(data_dir) == before


def test_a_second_preparation_at_the_same_time_is_refused(release: Path, tmp_path: Path) -> None:
    message = rf"in use by process {os.getpid()} .*--data_dir"
    with locked(tmp_path / f".preparing-{NAME}"), pytest.raises(WorkdirError, match=message):
        run(release, tmp_path)
    assert not snapshot(tmp_path)


@pytest.mark.parametrize(
    ("missing", "source"),
    [
        (f"{ANNOTATIONS}/PHOENIX-2014-T.dev.corpus.csv", "RWTH"),
        (f"{FRAMES}/test", "RWTH"),
        ("questions/train.txt", "GBT-code"),
        ("questions", "GBT-code"),
    ],
)
def test_missing_input_is_one_error_with_source_and_command(
    release: Path, tmp_path: Path, missing: str, source: str
) -> None:
    manual_dir = tmp_path / "manual"
    shutil.copytree(release, manual_dir)
    path = manual_dir / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    arguments = [NAME, f"--manual_dir={manual_dir}", f"--data_dir={tmp_path / 'data'}"]
    with pytest.raises(SystemExit) as error:
        main(arguments)
    message = str(error.value)
    assert str(path) in message
    assert source in message
    assert f"python -m tfds_builders.prepare {' '.join(arguments)}" in message
    assert not snapshot(tmp_path / "data")


def test_a_manual_dir_that_is_not_given_empty_or_absent_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given in ([], [f"--manual_dir={tmp_path / 'empty'}"], [f"--manual_dir={tmp_path / 'absent'}"]):
        with pytest.raises(SystemExit, match=r"(?s)--manual_dir.*RWTH.*GBT-code"):
            main([NAME, f"--data_dir={tmp_path / 'data'}", *given])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--resize=256s", r"'256s'.*short:256"),
        ("--fps=0", "--fps=0: give"),
        ("--fps=nan", "--fps=nan: give"),
        ("--num_workers=-1", "--num_workers=-1: give"),
        ("--vocab_size=-5", "--vocab_size=-5: give"),
    ],
)
def test_a_bad_size_or_number_is_refused_before_anything_is_written(
    release: Path, tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=message) as error:
        main([NAME, f"--manual_dir={release}", f"--data_dir={tmp_path}", option])
    assert "run again" not in str(error.value)
    assert not snapshot(tmp_path)


def test_the_summary_counts_clips_and_names_what_was_odd(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manual_dir = tmp_path / "manual"
    shutil.copytree(release, manual_dir)
    shutil.rmtree(manual_dir / FRAMES / "train" / clip_name("train", 2))
    run(manual_dir, tmp_path / "data")
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    assert ["train", "3", "9"] in lines
    assert ["dev", "2", "6"] in lines
    assert f"odd in train: 1 clip: no frames, left out: {clip_name('train', 2)}" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"custom_qa needs --language=CODE.* en_XX for English, de_DE for German"),
        (["--language=de"], r"--language=de is not one of mBART's codes; known: .*de_DE"),
        (["--language=klingon"], r"known: ar_AR, .*zh_CN"),
    ],
)
def test_own_clips_need_a_language_that_mbart_knows(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["custom_qa", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}", *options])
    assert not snapshot(tmp_path)


def test_the_language_is_written_down_and_known_for_a_corpus(prepared: Path) -> None:
    assert find_dataset(prepared.parents[1], NAME).language == "de_DE"
    with pytest.raises(PrepareError, match=r"phoenix2014t_qa are in de_DE: leave out --language=en_XX"):
        prepare(NAME, prepared.parents[1], language="en_XX")
