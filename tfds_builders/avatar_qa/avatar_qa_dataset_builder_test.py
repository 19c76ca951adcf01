"""Properties of the demo's sentences, and the dataset that TFDS writes."""

import collections

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.features import FeatureSource
from sslssaw_jax.data.keypoints import AVATAR
from tfds_builders.avatar_qa import avatar_qa_dataset_builder as builder_lib
from tfds_builders.avatar_qa import clips as clips_lib
from tfds_builders.avatar_qa import grammar
from tfds_builders.avatar_qa.vocabulary import GLOSSES, THINGS
from tfds_builders.prepare import prepare, verify

TINY = {"train": 5, "dev": 2, "test": 2, "isolated": 3}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[grammar.Row]]:
    return grammar.rows(builder_lib.NUM_CLIPS, builder_lib.SEED)


def _texts(rows: list[grammar.Row]) -> list[tuple[str, str]]:
    return [(row.sentence.question, row.sentence.target) for row in rows]


def test_sizes_are_those_of_the_readme(rows):
    clips = rows["train"] + rows["dev"] + rows["test"]
    assert {split: len(part) for split, part in rows.items()} == builder_lib.NUM_CLIPS
    assert {len(row.sentence.glosses) for row in clips} == {4, 5, 6}
    assert 6.5 < sum(row.num_frames for row in clips) / sum(len(row.sentence.glosses) for row in clips) < 8.5
    assert {gloss for row in rows["train"] for gloss in row.sentence.glosses} == set(GLOSSES)
    assert {row.signer for row in clips} == set(grammar.SIGNERS)


def test_no_pair_of_dev_or_test_occurs_in_train(rows):
    train, dev, test = (set(_texts(rows[split])) for split in ("train", "dev", "test"))
    assert not (train & dev or train & test or dev & test)


def test_the_same_seed_gives_the_same_rows(rows):
    assert grammar.rows(builder_lib.NUM_CLIPS, builder_lib.SEED) == rows
    assert _texts(grammar.rows({"dev": 5}, seed=1)["dev"]) != _texts(grammar.rows({"dev": 5}, seed=2)["dev"])


@pytest.fixture(scope="module")
def many() -> list[grammar.Sentence]:
    return [row.sentence for row in grammar.rows({"train": 40_000})["train"]]


def test_one_sign_sequence_has_targets_that_only_the_question_tells_apart(many):
    targets = collections.defaultdict(set)
    for sentence in many:
        targets[sentence.glosses].add(sentence.target)
    assert max(len(group) for group in targets.values()) >= 3

    def means(sentence_targets: set[str], word: str) -> bool:
        return any(word in target.split() for target in sentence_targets)

    things = {glosses: THINGS[gloss] for glosses in targets for gloss in glosses if gloss in THINGS}
    assert any(
        means(targets[glosses], thing.weather) and means(targets[glosses], thing.home)
        for glosses, thing in things.items()
    )


def test_readings_are_all_targets_of_the_same_signs(rows):
    sentences = [row.sentence for row in rows["test"]]
    assert all(sentence.target in grammar.readings(sentence.glosses) for sentence in sentences)
    assert grammar.readings(("DAY", "NORTH", "RAIN", "COME")) == {
        "tomorrow rain will come in the north",
        "yesterday rain came in the north",
        "tomorrow the mother will bring tea",
        "tomorrow the father will bring tea",
        "yesterday the mother brought tea",
        "yesterday the father brought tea",
    }


def test_signs_and_question_together_have_one_target(many):
    targets = collections.defaultdict(set)
    for sentence in many:
        targets[sentence.glosses, sentence.question].add(sentence.target)
    assert {len(group) for group in targets.values()} == {1}


def test_one_question_has_many_targets(many):
    targets = collections.defaultdict(set)
    for sentence in many:
        targets[sentence.question].add(sentence.target)
    often = [
        question
        for question, count in collections.Counter(sentence.question for sentence in many).items()
        if count >= 5
    ]
    assert len(often) > 500 and all(len(targets[question]) > 1 for question in often)


def test_isolated_signs_are_balanced(rows):
    counts = collections.Counter(row.sentence.target for row in rows["isolated"])
    assert set(counts) == {gloss.lower() for gloss in GLOSSES}
    assert max(counts.values()) - min(counts.values()) <= 1


def _decoded(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return image


class _Bytes(tfds.decode.SkipDecoding):
    """Leaves JPEG sequences as they are stored."""

    def decode_batch_example_np(self, example):
        return example


def test_clips_come_back_as_they_were_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(builder_lib, "NUM_CLIPS", TINY)
    prepare("avatar_qa", tmp_path, num_workers=1, vocab_size=60)
    builder = builder_lib.Builder(data_dir=tmp_path)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == TINY
    assert "homographs" in builder.info.description

    expected = grammar.rows(TINY, builder_lib.SEED)
    for split in TINY:
        source = builder.as_data_source(split, decoders={"video": _Bytes()})
        assert len(source) == TINY[split]
        for row, example in zip(expected[split], source, strict=True):
            assert example["id"].decode() == row.id
            assert example["question"].decode() == row.sentence.question
            assert example["target"].decode() == row.sentence.target
            assert example["gloss"].decode().split() == list(row.sentence.glosses)
            assert example["signer"].decode() == row.signer
            assert example["num_frames"] == len(example["video"]) == row.num_frames
            frames = np.stack([_decoded(jpeg) for jpeg in example["video"]])
            difference = frames.astype(int) - clips_lib.render_row(row)
            assert np.abs(difference).mean() < 4  # of JPEG

    def keypoints(split):
        source = FeatureSource(find_dataset(tmp_path, "avatar_qa"), split, [AVATAR])
        return [source.read_features(index, 99, None)[0] for index in range(len(source))]

    for split in TINY:
        for row, found in zip(expected[split], keypoints(split), strict=True):
            found = found.reshape(row.num_frames, -1, 3)
            np.testing.assert_allclose(found[..., :2], clips_lib.joints_of_row(row), atol=1e-3)
            assert (found[..., 2] == 1).all()
    verify("avatar_qa", tmp_path)


def test_a_sign_is_seen_through_the_whole_isolated_clip():
    for row in grammar.rows(TINY, seed=0)["isolated"]:
        clip = clips_lib.render_row(row).astype(int)
        at_rest = clips_lib.render([], 1, signer=row.signer, size=clips_lib.FRAME_SIZE, seed=row.seed)
        assert np.abs(clip - at_rest).mean(axis=(1, 2, 3)).min() > 6
