"""Keypoint sets: each frame of a batch has its row, and anything missing is named."""

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
from sslssaw_jax.data.dataset import Dataset, DatasetError, find_dataset
from sslssaw_jax.data.feature_writer import FeatureWriter
from sslssaw_jax.data.features import features_folder, features_from_notes, features_notes
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.frames import select_frames
from sslssaw_jax.data.keypoints import COCO_WHOLEBODY, columns_of, find_keypoints
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.systems import default_config, read_config

POINTS = ("nose", "left_wrist")
DATA = DataConfig(max_question_tokens=16, max_target_tokens=24, num_threads=2, keypoints="set", max_frames=10)
STAGE = StageConfig(epochs=1, clips_per_batch=4, frame_budget=64)


def rows(clip_id: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(list(clip_id.encode()))
    return rng.random((count, 6)).astype(np.float16)


@pytest.fixture(scope="module")
def dataset(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset with a keypoint set and a feature set."""
    folder = tmp_path_factory.mktemp("keypoints") / "data"
    shutil.copytree(tiny_data_dir, folder)
    found = find_dataset(folder, "avatar_qa")
    for name, points in (("set", POINTS), ("plain", ())):
        with FeatureWriter(found, name, source="a test", points=points) as writer:
            for split in ("train", "dev"):
                for clip in writer.clips[split].values():
                    writer.add(split, clip, rows(clip.id, clip.num_frames))
            writer.finish()
    return found


def test_each_frame_of_a_batch_has_its_keypoints(dataset: Dataset) -> None:
    source = open_clips(dataset, DATA, "train")
    assert source.num_frames.max() > DATA.max_frames
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language)
    for batch in eval_batches(source, tokenizer, DATA, STAGE):
        np.testing.assert_array_equal(batch.keypoints.start, batch.frame_start)
        np.testing.assert_array_equal(batch.keypoints.count, batch.frame_count)
        for row in np.flatnonzero(batch.valid):
            clip = source.clips[batch.index[row]]
            kept = select_frames(clip.num_frames, DATA.max_frames, None)
            found = batch.keypoints.values[batch.frame_start[row] :][: batch.frame_count[row]]
            np.testing.assert_array_equal(found, rows(clip.id, clip.num_frames)[kept])
        assert not batch.keypoints.values[batch.frame_count.sum() :].any()
    blind = next(iter(eval_batches(source.without_video(), tokenizer, DATA, STAGE)))
    assert not blind.keypoints.values.any() and blind.valid.any()


def test_in_training_keypoints_are_those_of_the_drawn_frames(dataset: Dataset) -> None:
    data = replace(DATA, keypoints="set")
    source = open_clips(dataset, data, "train")
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language)
    stacked = next(iter(train_batches(source, tokenizer, data, replace(STAGE, accumulate=2), seed=0)))
    assert stacked.keypoints.values.shape == (2, 64, 6)
    part, row = 1, 0
    clip = source.clips[stacked.index[part, row]]
    start, count = stacked.frame_start[part, row], stacked.frame_count[part, row]
    whole = rows(clip.id, clip.num_frames)
    shown = np.empty((clip.num_frames, *source.frame_size, 3), np.uint8)
    source.read_frames(int(stacked.index[part, row]), np.arange(clip.num_frames), shown)
    for frame, point in zip(stacked.frames[part][start:][:count], stacked.keypoints.values[part][start:]):
        assert (frame == shown[(whole == point).all(axis=1)][0]).all()


def test_clips_without_keypoints_are_named(dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(dataset.folder.parents[1], tmp_path / "data")
    copy = find_dataset(tmp_path / "data", "avatar_qa")
    index = features_folder(copy, "set") / "dev.json"
    facts = json.loads(index.read_text())
    del facts["clips"]["dev-001"], facts["clips"]["dev-004"]
    index.write_text(json.dumps(facts))
    with pytest.raises(DatasetError, match=r"dev.json has no rows of 2 of 6 clips, dev-001, dev-004: import"):
        open_clips(copy, DATA, "dev")


def test_a_set_knows_its_points_and_another_is_refused_with_the_remedy(dataset: Dataset) -> None:
    found = find_keypoints(dataset, "set")
    assert found is not None and found.points == POINTS and find_keypoints(dataset, None) is None
    notes = features_notes([found])
    assert json.loads(json.dumps(notes)) == notes, "a run compares the notes that it has read with its own"
    assert features_from_notes(notes) == [found]
    with pytest.raises(DatasetError, match=r"the feature set plain of .* has no named points: import them"):
        find_keypoints(dataset, "plain")
    with pytest.raises(DatasetError, match="has no keypoint set hrnet; it has set: import one"):
        find_keypoints(dataset, "hrnet")
    assert columns_of(POINTS, ("left_wrist", "nose")) == [1, 0]
    with pytest.raises(ConfigError, match="has no right_wrist; it has nose, left_wrist: name a set"):
        columns_of(POINTS, ("nose", "right_wrist"))


def test_coco_wholebody_has_its_points_at_their_numbers() -> None:
    at = {0: "nose", 5: "left_shoulder", 10: "right_wrist", 23: "face_0", 71: "face_48", 90: "face_67"}
    at |= {91: "left_hand_0", 112: "right_hand_0", 132: "right_hand_20", 17: "left_big_toe"}
    assert {number: COCO_WHOLEBODY[number] for number in at} == at
    assert len(COCO_WHOLEBODY) == len(set(COCO_WHOLEBODY)) == 133


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.keypoints": "set"},
            "config.data.keypoints is 'set'; the system 'ssl_ssaw' reads no keypoints",
        ),
        ({"data.keypoints": "set", "data.features": ("a",)}, "keypoints go with frames, whose place"),
    ],
)
def test_a_set_that_nothing_reads_is_refused(changes: dict, message: str) -> None:
    tree = default_config()
    tree.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        read_config(tree)
