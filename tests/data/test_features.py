"""Feature sets: written whole or not at all, read as written, and packed like frames."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.batches import eval_batches, train_batches
from sslssaw_jax.data.dataset import DIGESTS, Dataset, DatasetError, damaged_files, find_dataset
from sslssaw_jax.data.feature_writer import FeatureWriter
from sslssaw_jax.data.features import FeatureSource, features_folder, find_features
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.frames import select_frames
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.systems import default_config, read_config

DATA = DataConfig(max_question_tokens=16, max_target_tokens=24, num_threads=2, features=("first", "second"))
STAGE = StageConfig(epochs=2, clips_per_batch=4, frame_budget=64)


def rows(name: str, clip_id: str, count: int, width: int) -> np.ndarray:
    """The rows of a clip in a set: arbitrary numbers, always the same."""
    rng = np.random.default_rng(list(f"{name}/{clip_id}".encode()))
    return rng.normal(size=(count, width)).astype(np.float16)


def write(
    dataset: Dataset, name: str, width: int, stride: int = 1, splits: tuple[str, ...] = ("train", "dev")
):
    with FeatureWriter(dataset, name, stride=stride, source="a test") as writer:
        for split in splits:
            for clip in writer.clips[split].values():
                writer.add(split, clip, rows(name, clip.id, -(-clip.num_frames // stride), width))
        return writer.finish()


@pytest.fixture
def dataset(tiny_data_dir: Path, tmp_path: Path) -> Dataset:
    """Return a dataset whose folder may be written into; its records are left out."""
    shutil.copytree(tiny_data_dir, tmp_path / "data", ignore=shutil.ignore_patterns("*.array_record-*"))
    return find_dataset(tmp_path / "data", "avatar_qa")


@pytest.fixture(scope="module")
def with_sets(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset with two sets of different stride and width."""
    folder = tmp_path_factory.mktemp("features") / "data"
    shutil.copytree(tiny_data_dir, folder, ignore=shutil.ignore_patterns("*.array_record-*"))
    found = find_dataset(folder, "avatar_qa")
    assert write(found, "first", 5) == {"train": 24, "dev": 6}
    write(found, "second", 3, stride=4)
    return found


@pytest.mark.parametrize("max_frames", [300, 10])
def test_batches_hold_each_clip_s_rows_and_no_frames(with_sets: Dataset, max_frames: int) -> None:
    data = replace(DATA, max_frames=max_frames)
    source = open_clips(with_sets, data, "train")
    tokenizer = load_tokenizer(with_sets.tokenizer_folder, with_sets.language)
    for batch in eval_batches(source, tokenizer, data, STAGE):
        first, second = batch.features
        assert batch.frames.shape == (64, 0, 0, 3)
        assert first.values.shape == (64, 5) and second.values.shape == (64, 3)
        np.testing.assert_array_equal(batch.frame_count, first.count)
        np.testing.assert_array_equal(batch.frame_start, first.start)
        for row in np.flatnonzero(batch.valid):
            clip = source.clips[batch.index[row]]
            whole = rows("first", clip.id, clip.num_frames, 5)
            kept = select_frames(clip.num_frames, max_frames, None)
            np.testing.assert_array_equal(first.values[first.start[row] :][: first.count[row]], whole[kept])
            coarse = rows("second", clip.id, -(-clip.num_frames // 4), 3)
            most = min(len(coarse), -(-max_frames // 4))
            begin = (len(coarse) - most + 1) // 2
            found = second.values[second.start[row] :][: second.count[row]]
            np.testing.assert_array_equal(found, coarse[begin : begin + most])
        assert not first.values[first.count.sum() :].any()
        assert (first.count[~batch.valid] == 0).all() and (second.count[~batch.valid] == 0).all()


def test_training_draws_rows_anew_in_each_epoch_and_alike_in_all_sets(with_sets: Dataset) -> None:
    source = FeatureSource(with_sets, "train", ["first", "first"])
    index = int(source.num_frames.argmax())
    drawn = [source.read_features(index, 8, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all((one == other).all() for one, other in drawn)
    assert (drawn[0][0] == drawn[1][0]).all() and (drawn[0][0] != drawn[2][0]).any()
    whole = rows("first", source.clips[index].id, source.num_frames[index], 5)
    assert {tuple(row) for row in drawn[0][0].tolist()} < {tuple(row) for row in whole.tolist()}


def test_windows_of_several_spans_keep_one_stretch_of_a_long_clip(dataset: Dataset) -> None:
    for span in (4, 6, 9):
        with FeatureWriter(dataset, f"span {span}", stride=2, span=span, source="a test") as writer:
            for clip in writer.clips["train"].values():
                count = max((clip.num_frames - span) // 2 + 1, 1)
                writer.add("train", clip, np.arange(count, dtype=np.float16)[:, None])
            writer.finish()
    source = FeatureSource(dataset, "train", ["span 4", "span 6", "span 9"])
    index = int(source.num_frames.argmax())
    firsts = set()
    for rng in (None, *map(np.random.default_rng, range(6))):
        found = [rows[:, 0].tolist() for rows in source.read_features(index, 8, rng)]
        assert all(rows == found[0] and len(rows) == 4 for rows in found)
        firsts.add(found[0][0])
    assert len(firsts) > 2


def test_stacked_micro_batches_stack_features_too(with_sets: Dataset) -> None:
    source = open_clips(with_sets, DATA, "train")
    tokenizer = load_tokenizer(with_sets.tokenizer_folder, with_sets.language)
    alone = iter(train_batches(source, tokenizer, DATA, STAGE, seed=0))
    stacked = next(iter(train_batches(source, tokenizer, DATA, replace(STAGE, accumulate=2), seed=0)))
    for part in range(2):
        expected = next(alone)
        for ours, theirs in zip(stacked.features, expected.features, strict=True):
            np.testing.assert_array_equal(ours.values[part], theirs.values)


def test_without_video_every_row_is_zero(with_sets: Dataset) -> None:
    source = open_clips(with_sets, DATA, "dev").without_video()
    assert [len(each) for each in source.read_features(0, 300, None)] == [
        source.num_frames[0],
        -(-source.num_frames[0] // 4),
    ]
    assert not any(each.any() for each in source.read_features(0, 300, None))


def test_an_index_may_name_clips_with_their_split(dataset: Dataset) -> None:
    write(dataset, "first", 5)
    index = features_folder(dataset, "first") / "dev.json"
    facts = json.loads(index.read_text())
    plain = FeatureSource(dataset, "dev", ["first"]).read_features(2, 300, None)[0]
    facts["clips"] = {f"dev/{name}": place for name, place in facts["clips"].items()}
    index.write_text(json.dumps(facts))
    np.testing.assert_array_equal(
        FeatureSource(dataset, "dev", ["first"]).read_features(2, 300, None)[0], plain
    )


def test_a_killed_writer_goes_on_behind_the_last_whole_clip(dataset: Dataset) -> None:
    with FeatureWriter(dataset, "first", source="a test") as writer:
        for clip in list(writer.clips["train"].values())[:5]:
            writer.add("train", clip, rows("first", clip.id, clip.num_frames, 5))
        partial = writer._partial / "train.npy"
    with partial.open("ab") as file:
        file.write(b"half a clip")
    with partial.with_suffix(".jsonl").open("a") as file:
        file.write('{"id": "train-0')
    with pytest.raises(DatasetError, match="has no feature set first; it has none"):
        find_features(dataset, ["first"])
    with FeatureWriter(dataset, "first", source="a test") as writer:
        assert writer.written("train") == {f"train-{number:03d}" for number in range(5)}
        for clip in list(writer.clips["train"].values())[5:]:
            writer.add("train", clip, rows("first", clip.id, clip.num_frames, 5))
        writer.finish()
    resumed = find_features(dataset, ["first"])
    shutil.rmtree(features_folder(dataset, "first"))
    write(dataset, "first", 5, splits=("train",))
    assert find_features(dataset, ["first"]) == resumed


def test_rows_of_another_source_begin_anew(dataset: Dataset) -> None:
    for source, expected in (("one", 1), ("one", 1), ("another", 0)):
        with FeatureWriter(dataset, "first", source=source) as writer:
            clip = writer.clips["dev"]["dev-000"]
            if source == "one" and not writer.written("dev"):
                writer.add("dev", clip, rows("first", clip.id, clip.num_frames, 5))
            assert len(writer.written("dev")) == expected


def test_a_set_is_replaced_only_if_asked_and_only_as_a_whole(dataset: Dataset) -> None:
    write(dataset, "first", 5)
    before = find_features(dataset, ["first"])
    with pytest.raises(DatasetError, match="exists: add --overwrite"):
        write(dataset, "first", 4)
    with FeatureWriter(dataset, "first", source="new", overwrite=True) as writer:
        clip = writer.clips["dev"]["dev-000"]
        writer.add("dev", clip, rows("new", clip.id, clip.num_frames, 4))
        with pytest.raises(DatasetError, match=r"5 of 6 clips of dev have no features: dev-001, .*, \.\.\."):
            writer.finish()
    assert find_features(dataset, ["first"]) == before
    with FeatureWriter(dataset, "first", source="new", overwrite=True) as writer:
        for clip in writer.clips["dev"].values():
            if clip.id not in writer.written("dev"):
                writer.add("dev", clip, rows("new", clip.id, clip.num_frames, 4))
        writer.finish()
    (after,) = find_features(dataset, ["first"])
    assert after.width == 4 and after.fingerprint != before[0].fingerprint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((11, 5)),
            r"clip dev-000 of dev has \d+ frames and 11 rows of features: expected \d+ with a stride",
        ),
        (
            np.full((12, 5), 70_000.0),
            "clip dev-000 of dev has a feature of 70000, and float16 holds at most 65504",
        ),
        (np.full((12, 5), np.nan), "clip dev-000 of dev has a feature of nan"),
        (np.zeros(5), r"clip dev-000 of dev has features of the shape \[5\]"),
        (np.zeros((12, 4)), "clip dev-000 of dev has features of the width 4, those before it 5"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_clip(dataset: Dataset, values: np.ndarray, message: str) -> None:
    with FeatureWriter(dataset, "first", source="a test") as writer:
        other, clip = writer.clips["dev"]["dev-001"], writer.clips["dev"]["dev-000"]
        writer.add("dev", other, rows("first", other.id, other.num_frames, 5))
        if len(values) == 12:
            values = np.resize(values, (clip.num_frames, values.shape[1]))
        with pytest.raises(DatasetError, match=message):
            writer.add("dev", clip, values)
        assert writer.written("dev") == {"dev-001"}


def test_damage_is_found_by_verifying_and_by_reading(dataset: Dataset) -> None:
    for records in list(json.loads((dataset.folder / DIGESTS).read_text())):
        if "array_record" in records:  # the fixture left it out
            (dataset.folder / records).touch()
    sound = damaged_files(dataset)
    write(dataset, "first", 5)
    assert damaged_files(dataset) == sound
    index = features_folder(dataset, "first") / "dev.json"
    facts = json.loads(index.read_text())
    facts["clips"]["dev-003"][0] = 10_000
    index.write_text(json.dumps(facts))
    assert set(damaged_files(dataset)) - set(sound) == {"features/first/dev.json"}
    with pytest.raises(DatasetError, match=r"dev.json and its .npy are damaged .*--overwrite"):
        open_clips(dataset, replace(DATA, features=("first",)), "dev")
    del facts["clips"]["dev-003"]
    index.write_text(json.dumps(facts))
    with pytest.raises(DatasetError, match="has no rows of 1 of 6 clips, dev-003"):
        open_clips(dataset, replace(DATA, features=("first",)), "dev")


def test_a_set_that_is_not_there_is_named(with_sets: Dataset) -> None:
    with pytest.raises(DatasetError, match="has no feature set i3d; it has first, second: import one"):
        find_features(with_sets, ["i3d"])
    with pytest.raises(DatasetError, match=r"feature set .*first has no split test; it has dev, train"):
        open_clips(with_sets, DATA, "test")
    with pytest.raises(DatasetError, match=r"no name of a feature set: '\.\./x'"):
        find_features(with_sets, ["../x"])


@pytest.mark.parametrize(
    ("system", "changes", "message"),
    [
        (
            "question_only",
            {"data.features": ("a",)},
            "'question_only' reads no video: clear it with --config.data.features=, ",
        ),
        ("ssl_ssaw", {"data.features": ("a", "a")}, "config.data.features is .*: name each set once"),
        ("ssl_ssaw", {"data.features": ("a", "b")}, "'ssl_ssaw' reads is 1: name as many"),
        ("slrt", {"data.features": ("a",), "warm_start.epochs": 1}, "no CNN is made: clear"),
    ],
)
def test_settings_that_do_not_fit_features_are_refused(system: str, changes: dict, message: str) -> None:
    tree = default_config(system)
    tree.update_from_flattened_dict({"warm_start.epochs": 0} | changes)
    with pytest.raises(ConfigError, match=message):
        read_config(tree)
