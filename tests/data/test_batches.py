"""Batches: complete, reproducible, restartable, true to the stored frames; and clear errors on the way."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.batches import (
    cut_questions,
    cut_targets,
    eval_batches,
    train_batches,
    unreachable_targets,
)
from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.dataset import Dataset, DatasetError, find_dataset
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.frames import FrameError, decode_frames, select_frames
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.types import Batch
from sslssaw_jax.workdir import read_jsonl, write_jsonl
from tests.support.toy import with_texts

DATA = DataConfig(max_question_tokens=16, max_target_tokens=24, num_threads=2)
STAGE = StageConfig(epochs=3, clips_per_batch=4, frame_budget=64)


@pytest.fixture(scope="module")
def dataset(tiny_data_dir: Path) -> Dataset:
    return find_dataset(tiny_data_dir, "avatar_qa")


@pytest.fixture(scope="module")
def source(dataset: Dataset) -> ClipSource:
    return ClipSource(dataset, "train")


@pytest.fixture(scope="module")
def tokenizer(source: ClipSource) -> Tokenizer:
    return load_tokenizer(source.dataset.tokenizer_folder, source.dataset.language)


def assert_equal(first: Batch, second: Batch) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_texts_and_counts_are_those_of_the_records(source: ClipSource) -> None:
    assert len(source) == len(source.clips) == len(source.num_frames) == 24
    for index in range(len(source)):
        clip = source[index]
        info = source.clips[index]
        assert (clip.id, clip.question, clip.target) == (info.id, info.question, info.target)
        assert clip.id == f"train-{index:03d}"
        assert len(clip.video) == info.num_frames == source.num_frames[index]
        assert clip.video[0].startswith(b"\xff\xd8")


def test_opening_and_planning_read_no_video(
    tiny_data_dir: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    shutil.copytree(tiny_data_dir, tmp_path / "data")
    for records in (tmp_path / "data").rglob("*.array_record-*"):
        records.write_bytes(b"")
    without_video = ClipSource(find_dataset(tmp_path / "data", "avatar_qa"), "train")
    assert train_batches(without_video, tokenizer, DATA, STAGE, 0).num_batches > 0


def test_a_pickled_source_reads_the_same(source: ClipSource) -> None:
    assert pickle.loads(pickle.dumps(source))[3] == source[3]


def test_every_clip_comes_once_an_epoch(source: ClipSource, tokenizer: Tokenizer) -> None:
    batches = train_batches(source, tokenizer, DATA, STAGE, seed=0)
    seen = [batch.index[batch.valid] for batch in batches]
    assert len(seen) == batches.num_batches == batches.epoch_ends[-1]
    ends = [0, *batches.epoch_ends]
    orders = [np.concatenate(seen[start:end]).tolist() for start, end in pairwise(ends)]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("max_frames", [300, 10])
def test_order_and_bytes_do_not_depend_on_threads(
    source: ClipSource, tokenizer: Tokenizer, max_frames: int
) -> None:
    one = replace(DATA, num_threads=1, max_frames=max_frames)
    eight = replace(DATA, num_threads=8, max_frames=max_frames)
    for first, second in zip(
        train_batches(source, tokenizer, one, STAGE, seed=7),
        train_batches(source, tokenizer, eight, STAGE, seed=7),
        strict=True,
    ):
        assert_equal(first, second)


@pytest.mark.parametrize("step", [0, 1, 5])
def test_a_restart_continues_bit_for_bit(source: ClipSource, tokenizer: Tokenizer, step: int) -> None:
    uninterrupted = list(train_batches(source, tokenizer, DATA, STAGE, seed=1))
    iterator = train_batches(source, tokenizer, DATA, STAGE, seed=1).iterator()
    for _ in range(step):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    restarted = train_batches(source, tokenizer, DATA, STAGE, seed=1)
    from_state = restarted.iterator()
    from_state.set_state(state)
    for rest in (from_state, restarted.iterator(start=step)):
        for expected, got in zip(uninterrupted[step:], rest, strict=True):
            assert_equal(expected, got)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_short_clips_share_batches_that_are_as_long_as_they_need(
    source: ClipSource, tokenizer: Tokenizer, accumulate: int
) -> None:
    data, stage = replace(DATA, length_steps=8, max_frames=40), replace(STAGE, accumulate=accumulate)
    sizes, seen = set(), []
    for batch in train_batches(source, tokenizer, data, stage, seed=0):
        texts = batch.decoder_texts
        size = texts.question.shape[-1], texts.target.shape[-1], batch.most_rows
        steps = {length * 8 // limit for length, limit in zip(size, (16, 24, 40))}
        assert len(steps) == 1, "lengths are the same share of their limits"
        needed = texts.question_mask.sum(-1).max(), texts.target_mask.sum(-1).max(), batch.frame_count.max()
        assert all(need <= length for need, length in zip(needed, size))
        sizes.add(size)
        seen += batch.index[batch.valid].tolist()
        for index, ids, mask in zip(
            batch.index.flat, texts.target.reshape(-1, size[1]), texts.target_mask.reshape(-1, size[1])
        ):
            if index >= 0:
                assert ids[mask].tolist() == tokenizer.encode(source.clips[index].target, 24)
    assert len(sizes) > 1 and sorted(seen) == sorted(3 * [*range(24)])


def test_a_restart_with_lengths_continues_bit_for_bit(source: ClipSource, tokenizer: Tokenizer) -> None:
    data = replace(DATA, length_steps=8)
    whole = list(train_batches(source, tokenizer, data, STAGE, seed=1))
    rest = train_batches(source, tokenizer, data, STAGE, seed=1).iterator(start=4)
    for expected, got in zip(whole[4:], rest, strict=True):
        assert_equal(expected, got)


def bgr(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_packed_frames_are_each_clips_own(source: ClipSource, tokenizer: Tokenizer) -> None:
    for batch in eval_batches(source, tokenizer, DATA, STAGE):
        used = 0
        for row in np.flatnonzero(batch.valid):
            clip = source[batch.index[row]]
            own = [bgr(jpeg)[..., ::-1] for jpeg in clip.video]
            start, count = batch.frame_start[row], batch.frame_count[row]
            np.testing.assert_array_equal(batch.frames[start : start + count], own)
            assert start == used
            used += count
        assert not batch.frames[used:].any()


def test_long_clips_keep_frames_in_order_drawn_anew_in_training_only(
    source: ClipSource, tokenizer: Tokenizer
) -> None:
    short = replace(DATA, max_frames=5)

    def frames_by_epoch(clip: int) -> list[np.ndarray]:
        batches = train_batches(source, tokenizer, short, STAGE, seed=0)
        found = []
        for batch in batches:
            for row in np.flatnonzero(batch.index == clip):
                found.append(batch.frames[batch.frame_start[row] :][: batch.frame_count[row]])
        return found

    first, second, third = frames_by_epoch(0)
    assert len(first) == 5
    assert not (np.array_equal(first, second) and np.array_equal(second, third))
    once, again = (list(eval_batches(source, tokenizer, short, STAGE)) for _ in range(2))
    for left, right in zip(once, again, strict=True):
        assert_equal(left, right)


def test_texts_are_the_clips_own_cleaned_and_padded(source: ClipSource, tokenizer: Tokenizer) -> None:
    for batch in train_batches(source, tokenizer, DATA, STAGE, seed=0):
        texts = batch.decoder_texts
        assert batch.text_tower_texts is texts
        for row in np.flatnonzero(batch.valid):
            clip = source.clips[batch.index[row]]
            question = texts.question[row][texts.question_mask[row]]
            target = texts.target[row][texts.target_mask[row]]
            masked = batch.masked_target[row][batch.masked_target_mask[row]]
            assert tokenizer.decode(question.tolist()) == clean_question(clip.question)
            assert tokenizer.decode(target.tolist()) == clip.target
            assert (masked == tokenizer.mask_id).any()
            for ids in (question, target, masked):
                assert ids[-2:].tolist() == [tokenizer.eos_id, tokenizer.language_id]
        assert (texts.question[~texts.question_mask] == tokenizer.pad_id).all()
        assert (texts.target[~texts.target_mask] == tokenizer.pad_id).all()
        assert (batch.masked_target[~batch.masked_target_mask] == tokenizer.pad_id).all()


def test_the_configuration_names_the_share_of_masked_words(source: ClipSource, tokenizer: Tokenizer) -> None:
    batches = list(train_batches(source, tokenizer, replace(DATA, mask_rate=0.5), STAGE, seed=0))
    masked = sum((batch.masked_target == tokenizer.mask_id).sum() for batch in batches)
    targets = [source.clips[index].target for batch in batches for index in batch.index[batch.valid]]
    assert 0.35 < masked / len(" ".join(targets).split()) < 0.65


def test_rows_without_a_clip_are_empty_and_every_batch_has_one_shape(
    source: ClipSource, tokenizer: Tokenizer
) -> None:
    wide = replace(STAGE, clips_per_batch=7)
    train, dev = train_batches(source, tokenizer, DATA, wide, 0), eval_batches(source, tokenizer, DATA, wide)
    shapes = {
        str(jax.tree.map(lambda x: (x.shape, x.dtype), batch))
        for batches in (train, dev)
        for batch in batches
    }
    assert len(shapes) == 1
    batch = next(batch for batch in train if not batch.valid.all())
    empty = ~batch.valid
    assert (batch.index[empty] == -1).all()
    assert (batch.frame_count[empty] == 0).all()
    assert not batch.decoder_texts.question_mask[empty].any()
    assert not batch.decoder_texts.target_mask[empty].any()
    assert not batch.masked_target_mask[empty].any()


def test_a_model_of_questions_alone_reads_no_video(
    tiny_data_dir: Path, tmp_path: Path, source: ClipSource, tokenizer: Tokenizer
) -> None:
    shutil.copytree(tiny_data_dir, tmp_path / "data")
    for records in (tmp_path / "data").rglob("*.array_record-*"):
        records.unlink()
    dataset = find_dataset(tmp_path / "data", "avatar_qa")
    texts = eval_batches(open_clips(dataset, DATA, "train", video=False), tokenizer, DATA, STAGE)
    assert not any(batch.frame_count.any() for batch in texts)
    read, filmed = (
        {
            index: row
            for batch in batches
            for index, row in zip(batch.index, batch.decoder_texts.question)
            if index >= 0
        }
        for batches in (texts, eval_batches(source, tokenizer, DATA, STAGE))
    )
    jax.tree.map(np.testing.assert_array_equal, read, filmed)


def test_a_dataset_of_texts_alone_is_told_where_video_is_asked_for(
    tiny_data_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data_dir, tmp_path / "data")
    clips = next((tmp_path / "data").rglob("clips.train.jsonl"))
    rows = map(json.loads, clips.read_text(encoding="utf-8").splitlines())
    clips.write_text("".join(json.dumps({**row, "num_frames": 0}) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DatasetError, match="--text_only"):
        open_clips(find_dataset(tmp_path / "data", "avatar_qa"), DATA, "train")


def test_targets_that_are_cut_are_counted_and_named(source: ClipSource, tokenizer: Tokenizer) -> None:
    assert not cut_targets(source.clips, tokenizer, 64)
    lengths = [len(tokenizer.encode(clip.target, 999)) for clip in source.clips]
    most = max(lengths) - 1
    first = next(clip.id for clip, length in zip(source.clips, lengths) if length > most)
    number = sum(length > most for length in lengths)
    line = cut_targets(source.clips, tokenizer, most)
    assert line.startswith(f"{number} of 24 targets are cut to config.data.max_target_tokens={most}: {first}")


def test_targets_longer_than_a_translation_can_be_are_counted_with_their_end_token(
    source: ClipSource, tokenizer: Tokenizer
) -> None:
    written = max(len(tokenizer.encode(clip.target, 999)) - 1 for clip in source.clips)  # no language code
    assert not unreachable_targets("dev", source.clips, tokenizer, written)
    line = unreachable_targets("dev", source.clips, tokenizer, written - 1)
    assert "of 24 targets of dev are longer than any translation" in line
    assert f"config.decode.max_new_tokens={written - 1}: train-" in line


def test_questions_that_are_cut_are_counted_as_they_are_read(
    source: ClipSource, tokenizer: Tokenizer
) -> None:
    most = max(len(tokenizer.encode(clean_question(clip.question), 999)) for clip in source.clips)
    assert not cut_questions(source.clips, tokenizer, most)
    line = cut_questions([replace(source.clips[0], question="rain " * 99)], tokenizer, most)
    assert line.startswith(f"1 of 1 questions are cut to config.data.max_question_tokens={most}: train-000")


def test_other_questions_can_be_asked_in_training(source: ClipSource, tokenizer: Tokenizer) -> None:
    """Each epoch draws its own questions; frames, targets and masked words stay as they are."""

    def ask(clip: ClipInfo, rng: np.random.Generator) -> str:
        return f"{rng.choice(['rain', 'snow', 'wind'])} {clip.target}"

    plain = train_batches(source, tokenizer, DATA, STAGE, seed=0)
    asked: dict[int, set[str]] = {}
    for batch, expected in zip(train_batches(source, tokenizer, DATA, STAGE, 0, ask=ask), plain, strict=True):
        texts, own = batch.decoder_texts, expected.decoder_texts
        assert_equal(with_texts(batch, question=own.question, question_mask=own.question_mask), expected)
        for row in np.flatnonzero(batch.valid):
            question = tokenizer.decode(texts.question[row][texts.question_mask[row]].tolist())
            word, _, target = question.partition(" ")
            assert target == source.clips[batch.index[row]].target
            asked.setdefault(int(batch.index[row]), set()).add(word)
    assert set.union(*asked.values()) == {"rain", "snow", "wind"}
    assert max(map(len, asked.values())) > 1


def test_evaluation_covers_the_split_on_every_pass(source: ClipSource, tokenizer: Tokenizer) -> None:
    batches = eval_batches(source, tokenizer, DATA, STAGE)
    for _ in range(2):
        assert sorted(np.concatenate([batch.index[batch.valid] for batch in batches])) == list(range(24))


def test_no_question_is_no_token_and_a_single_word_is_a_text(dataset: Dataset, tokenizer: Tokenizer) -> None:
    isolated = ClipSource(dataset, "isolated")
    end = [tokenizer.eos_id, tokenizer.language_id]
    for batch in eval_batches(isolated, tokenizer, DATA, STAGE):
        assert not batch.decoder_texts.question_mask.any()
        assert (
            batch.masked_target[batch.masked_target_mask].tolist()
            == [tokenizer.mask_id, *end] * batch.valid.sum()
        )


@pytest.mark.parametrize(("count", "max_frames"), [(5, 10), (10, 10), (11, 10), (475, 300), (7, 1)])
def test_selected_frames_are_distinct_sorted_and_evenly_spaced_in_evaluation(
    count: int, max_frames: int
) -> None:
    kept = select_frames(count, max_frames, None)
    drawn = select_frames(count, max_frames, np.random.default_rng(0))
    for frames in (kept, drawn):
        assert len(frames) == min(count, max_frames)
        assert (np.diff(frames) > 0).all()
        assert 0 <= frames[0] <= frames[-1] < count
    assert (np.abs(np.diff(kept) - count / len(kept)) < 1).all()
    assert abs(kept[0] - (count - 1 - kept[-1])) <= 1  # the same number is left out before and after


def test_a_broken_or_odd_sized_frame_is_named_with_its_clip() -> None:
    def jpeg(height: int, width: int) -> bytes:
        return cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes()

    frames = np.zeros((3, 8, 16, 3), np.uint8)
    start = jpeg(8, 16).index(b"\xff\xc0") + 5
    huge = jpeg(8, 16)[:start] + b"\xff\xff" * 2 + jpeg(8, 16)[start + 4 :]  # says 65,535 x 65,535 pixels
    for broken in (b"", b"no image", jpeg(8, 16)[:40], huge):
        with pytest.raises(FrameError, match="frame 1 of clip rain-7 is not a readable JPEG"):
            decode_frames("rain-7", [jpeg(8, 16), broken, jpeg(8, 16)], range(3), frames)
    with pytest.raises(FrameError, match=r"frame 2 of clip rain-7 has 1 x 16 pixels.*8 x 16.*--resize"):
        decode_frames("rain-7", [jpeg(8, 16), jpeg(8, 16), jpeg(1, 16)], range(3), frames)


def test_an_error_in_a_thread_reaches_the_caller(source: ClipSource, tokenizer: Tokenizer) -> None:
    changed = pickle.loads(pickle.dumps(source))
    changed.clips[0] = replace(changed.clips[0], id="other")
    with pytest.raises(DatasetError, match=r"clips\.train\.jsonl .* does not describe its record 0"):
        list(eval_batches(changed, tokenizer, DATA, STAGE))


def test_a_missing_dataset_or_split_is_one_clear_error(dataset: Dataset, tmp_path: Path) -> None:
    for name, command in {
        "avatar_qa": r"prepare avatar_qa --data_dir=.*`",
        "phoenix2014t_qa": r"prepare phoenix2014t_qa --data_dir=.* --manual_dir=FOLDER`",
        "custom_qa": r"prepare custom_qa --data_dir=.* --language=CODE --manual_dir=FOLDER`",
    }.items():
        with pytest.raises(DatasetError, match=rf"python -m tfds_builders\.{command}"):
            find_dataset(tmp_path, name)
    with pytest.raises(DatasetError, match=r"no dataset avatar: did you mean avatar_qa\?"):
        find_dataset(tmp_path, "avatar")
    (tmp_path / "avatar_qa" / "1.0.0.incomplete").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no prepared dataset avatar_qa"):
        find_dataset(tmp_path, "avatar_qa")
    with pytest.raises(DatasetError, match=r"no split 'valid'; it has dev, isolated, test, train$"):
        ClipSource(dataset, "valid")
    clips_to_translate = replace(dataset, folder=tmp_path)
    shutil.copy(dataset.clips_file("test"), tmp_path)
    with pytest.raises(DatasetError, match="it has test, clips to translate: use --mode=translate"):
        ClipSource(clips_to_translate, "dev")


@pytest.mark.parametrize("field", ["question", "target", "gloss", "signer", "num_frames", "overlap"])
def test_every_text_is_compared_with_its_record(source: ClipSource, field: str) -> None:
    changed = pickle.loads(pickle.dumps(source))
    other: Any = {"num_frames": 99, "overlap": True}.get(field, "x")
    changed.clips[0] = replace(changed.clips[0], **{field: other})
    with pytest.raises(DatasetError, match=r"clips\.train\.jsonl .* does not describe its record 0"):
        changed[0]


def edited(tiny_data_dir: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Dataset:
    """Copy the dataset, the first row of its train clips changed."""
    shutil.copytree(tiny_data_dir, folder)
    dataset = find_dataset(folder, "avatar_qa")
    first, *others = read_jsonl(dataset.clips_file("train"))
    change(first)
    write_jsonl(dataset.clips_file("train"), [first, *others])
    return dataset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(id="../../escape"), "'../../escape' cannot be the name of a clip"),
        (lambda row: row.update(id="/etc/passwd"), "'/etc/passwd' cannot be the name of a clip"),
        (lambda row: row.update(id=7), "id of '7' is not of type str"),
        (lambda row: row.update(num_frames=-1), "num_frames of train-000 is -1"),
        (lambda row: row.update(num_frames=10**30), "num_frames of train-000 is 1000"),
        (lambda row: row.update(num_frames="8"), "num_frames of 'train-000' is not of type int"),
        (lambda row: row.update(extra=1), "unexpected keyword argument 'extra'"),
        (lambda row: row.pop("target"), "missing 1 required positional argument: 'target'"),
    ],
)
def test_clips_of_somebody_else_are_checked(
    tiny_data_dir: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    dataset = edited(tiny_data_dir, tmp_path / "data", change)
    with pytest.raises(DatasetError, match=rf"clips\.train\.jsonl is damaged: .*{message}"):
        ClipSource(dataset, "train")


def test_line_separators_of_unicode_end_no_line(tiny_data_dir: Path, tmp_path: Path) -> None:
    target = "one\u2028two\u0085three\x0cfour"
    dataset = edited(tiny_data_dir, tmp_path / "data", lambda row: row.update(target=target))
    assert ClipSource(dataset, "train").clips[0].target == target


def test_a_module_that_a_dataset_names_is_not_imported(
    tiny_data_dir: Path, tmp_path: Path, source: ClipSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(tiny_data_dir, tmp_path / "data")
    dataset = find_dataset(tmp_path / "data", "avatar_qa")
    features = dataset.folder / "features.json"
    features.write_text(re.sub(r"tensorflow_datasets\.[a-z_.]*", "evil.", features.read_text("utf-8")))
    assert "evil.Text" in features.read_text("utf-8")
    assert ClipSource(dataset, "train")[0] == source[0]
    assert not (tmp_path / "trace").exists()


def test_a_folder_of_datasets_may_have_any_name(tiny_data_dir: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "100% #1? [a] b|*~ü {c}"
    shutil.copytree(tiny_data_dir / "avatar_qa", data_dir / "avatar_qa")
    clip = ClipSource(find_dataset(data_dir, "avatar_qa"), "dev")[5]
    assert clip.id == "dev-005" and clip.video[0].startswith(b"\xff\xd8")


def test_the_newest_version_is_read(tiny_data_dir: Path, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.9.0", "1.10.0"):
        shutil.copytree(tiny_data_dir / "avatar_qa" / "1.0.0", tmp_path / "avatar_qa" / version)
    assert find_dataset(tmp_path, "avatar_qa").folder.name == "1.10.0"


def test_a_dataset_without_its_language_is_to_be_prepared_again(tiny_data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data_dir / "avatar_qa", tmp_path / "avatar_qa")
    facts = tmp_path / "avatar_qa" / "1.0.0" / "dataset.json"
    good = facts.read_text("utf-8")
    broken = [
        good.replace("crop:48", "crop:99999"),
        good.replace("25.0", "NaN"),
        good.replace("25.0", '"25"'),
    ]
    for text in ("", "{}", "[" * 100_000, *broken, None):
        facts.unlink() if text is None else facts.write_text(text)
        with pytest.raises(DatasetError, match=r"1\.0\.0/dataset\.json .*prepare avatar_qa .*--overwrite"):
            find_dataset(tmp_path, "avatar_qa")


def test_a_clip_over_the_budget_is_refused_before_any_reading(
    source: ClipSource, tokenizer: Tokenizer
) -> None:
    for open_batches in (
        lambda stage: train_batches(source, tokenizer, DATA, stage, 0),
        lambda stage: eval_batches(source, tokenizer, DATA, stage),
    ):
        with pytest.raises(ConfigError, match=r"data\.max_frames"):
            open_batches(replace(STAGE, frame_budget=12))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_each_process_reads_its_frames_alone_and_together_they_read_all(
    source: ClipSource, tokenizer: Tokenizer, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = replace(STAGE, frame_budget=72)
    ends = [72 * i // count for i in range(count + 1)]
    shares = [range(start, end) for start, end in pairwise(ends)]
    whole = list(train_batches(source, tokenizer, DATA, stage, seed=0))
    read: list[int] = []
    monkeypatch.setattr(ClipSource, "__getitem__", _noting(read))
    parts = [list(train_batches(source, tokenizer, DATA, stage, 0, share)) for share in shares]
    for i, batch in enumerate(whole):
        for share, part in zip(shares, parts, strict=True):
            own = np.isin(np.arange(72), share)
            np.testing.assert_array_equal(part[i].frames[own], batch.frames[own])
            assert not part[i].frames[~own].any()
            assert_equal(part[i].replace(frames=batch.frames), batch)
    # a clip that crosses a boundary is read on both sides
    assert len(read) <= STAGE.epochs * len(source) + len(whole) * (count - 1) + count


def _noting(read: list[int]):
    original = ClipSource.__getitem__

    def getitem(self: ClipSource, index: int):
        read.append(index)
        return original(self, index)

    return getitem


def test_a_step_that_accumulates_stacks_the_next_batches_of_its_epoch(
    source: ClipSource, tokenizer: Tokenizer
) -> None:
    single = train_batches(source, tokenizer, DATA, STAGE, seed=0)
    stacked = train_batches(source, tokenizer, DATA, replace(STAGE, accumulate=4), seed=0)
    steps, rest = list(stacked), iter(single)
    assert len(steps) == stacked.num_batches == stacked.epoch_ends[-1]
    empty = 0
    for step in steps:
        for i in range(4):
            part = jax.tree.map(lambda x, i=i: x[i], step)
            if part.valid.any():
                assert_equal(part, next(rest))
            else:
                empty += 1
                assert not part.frames.any() and not part.decoder_texts.question_mask.any()
    assert next(rest, None) is None
    expected = -(-np.diff([0, *single.epoch_ends]) // 4)
    np.testing.assert_array_equal(np.diff([0, *stacked.epoch_ends]), expected)
    assert empty == 4 * len(steps) - single.num_batches > 0
    for batch in eval_batches(source, tokenizer, DATA, replace(STAGE, accumulate=4)):
        assert batch.valid.ndim == 1
