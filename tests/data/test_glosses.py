import dataclasses
from pathlib import Path

import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.dataset import DatasetError, find_dataset
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.glosses import GlossVocabulary, WordVocabulary, require_glosses
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.workdir import DamagedFileError

VOCABULARY = GlossVocabulary.of(["RAIN NORTH RAIN", "SNOW NORTH RAIN"])


@pytest.fixture(scope="module")
def source(tiny_data_dir: Path) -> ClipSource:
    return ClipSource(find_dataset(tiny_data_dir, "avatar_qa"), "train")


def test_glosses_are_numbered_by_frequency_then_by_alphabet() -> None:
    assert VOCABULARY.glosses == ("RAIN", "NORTH", "SNOW")
    assert VOCABULARY.size == 5
    assert VOCABULARY.encode(" SNOW  HAIL RAIN") == [4, 1, 2]
    assert VOCABULARY.decode([0, 4, 0, 1, 2]) == "SNOW <unk> RAIN"
    assert GlossVocabulary.of(["B A"]).glosses == ("A", "B")


def test_a_saved_vocabulary_is_the_same_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    VOCABULARY.save(tmp_path)
    assert GlossVocabulary.load(tmp_path) == VOCABULARY
    assert GlossVocabulary.load(tmp_path).fingerprint == VOCABULARY.fingerprint
    assert dataclasses.replace(VOCABULARY, glosses=("RAIN",)).fingerprint != VOCABULARY.fingerprint
    (tmp_path / "glosses.json").write_text('{"glosses": [1]}')
    with pytest.raises(DamagedFileError, match=r"glosses\.json is damaged"):
        GlossVocabulary.load(tmp_path)
    with pytest.raises(DamagedFileError, match=r"there is no .*glosses\.json"):
        GlossVocabulary.load(tmp_path / "elsewhere")


def clip(target: str) -> ClipInfo:
    return ClipInfo("a", 0, "", target, "", "")


def test_words_are_those_of_train_s_sentences_that_occur_three_times(source: ClipSource) -> None:
    texts = open_clips(source.dataset, DataConfig(), "train", video=False)
    texts.clips = [*map(clip, ["rain in the north", "rain in the south", "the rain in may", "the  rain"])]
    words = WordVocabulary.of_split(texts)
    assert words.glosses == ("rain", "the", "in")
    assert words.encode("in the deep rain the") == [2, 3, 4], "each known word once"
    texts.clips = texts.clips[:2]
    with pytest.raises(DatasetError, match="no word occurs 3 times in the sentences of the split train"):
        WordVocabulary.of_split(texts)


def test_words_without_spaces_are_characters() -> None:
    assert WordVocabulary.texts([clip("今天 下雨。"), clip("下雪")]) == ["今 天 下 雨 。", "下 雪"]


def test_a_split_without_glosses_is_named(source: ClipSource) -> None:
    require_glosses(source)
    without = open_clips(source.dataset, DataConfig(), "train", video=False)
    without.clips = [dataclasses.replace(clip, gloss=" ") for clip in source.clips]
    with pytest.raises(DatasetError, match=r"the split train of \S+ has no glosses"):
        require_glosses(without)


def test_a_batch_has_the_glosses_of_its_clips_if_asked_for(source: ClipSource) -> None:
    tokenizer = load_tokenizer(source.dataset.tokenizer_folder, source.dataset.language)
    data, stage = DataConfig(max_glosses=4, num_threads=1), StageConfig(clips_per_batch=5, frame_budget=120)
    vocabulary = GlossVocabulary.of(clip.gloss for clip in source.clips)
    texts = open_clips(source.dataset, data, "train", video=False)
    for batch in eval_batches(texts, tokenizer, data, stage, glosses=vocabulary):
        for row, index in enumerate(batch.index):
            wanted = source.clips[index].gloss if index >= 0 else ""
            assert vocabulary.decode(batch.gloss[row][batch.gloss_mask[row]]) == wanted
            assert not batch.gloss[row][~batch.gloss_mask[row]].any()
    plain = next(iter(eval_batches(texts, tokenizer, data, stage)))
    assert plain.gloss.shape == (5, 4) and not plain.gloss_mask.any()
    np.testing.assert_array_equal(plain.gloss, 0)


def test_more_glosses_than_places_are_an_error_that_names_the_clip(source: ClipSource) -> None:
    tokenizer = load_tokenizer(source.dataset.tokenizer_folder, source.dataset.language)
    data, stage = DataConfig(max_glosses=3), StageConfig(clips_per_batch=5, frame_budget=120)
    long = open_clips(source.dataset, data, "train", video=False)
    long.clips = [*long.clips[:2], ClipInfo("long", 0, "", "", "A B C D", ""), *long.clips[3:]]
    with pytest.raises(ConfigError, match=r"max_glosses is 3, and long has 4 glosses"):
        eval_batches(long, tokenizer, data, stage, glosses=VOCABULARY)
