import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from sslssaw_jax.config.experiment import Config, ConfigError
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.evaluation.leakage import swapped_questions
from sslssaw_jax.evaluation.metrics import score
from sslssaw_jax.evaluation.predictions import (
    Prediction,
    read_question_only,
    score_swapped_questions,
    translate_split,
    write_predictions,
)
from sslssaw_jax.stages.translate import Translation
from sslssaw_jax.training.sharding import make_mesh
from sslssaw_jax.types import Batch, TrainState
from tests.support.toy import toy_config, with_texts

CONFIG: Config = toy_config(**{"translate.clips_per_batch": 4, "translate.frame_budget": 48})
STATE = TrainState(*(4 * [None]))


@dataclass
class Clips:
    """The miniature test split, each clip with a question of its own."""

    source: ClipSource
    tokenizer: Tokenizer


@pytest.fixture(scope="module")
def clips(tiny_data_dir: Path) -> Clips:
    source = ClipSource(find_dataset(tiny_data_dir, "avatar_qa"), "test")
    times = ["rain", "snow", "wind", "fog", "sun", "hail"]
    tokenizer = load_tokenizer(source.dataset.tokenizer_folder, "en_XX")
    return Clips(source.asking([f"what {time}" for time in times]), tokenizer)


def copies(field: str):
    """A model that translates each clip by what is written in a field of its batch."""

    def translate(params: None, batch_stats: None, batch: Batch) -> Translation:
        tokens, mask = (np.asarray(getattr(batch.decoder_texts, name)) for name in (field, f"{field}_mask"))
        return Translation(np.where(mask, tokens, 1), np.zeros(len(tokens)), np.ones(mask.shape), mask)

    return translate


def translated(clips: Clips, source: ClipSource, field: str) -> list[str]:
    mesh = make_mesh(CONFIG.mesh)
    predictions, _ = translate_split(copies(field), STATE, source, clips.tokenizer, CONFIG, mesh)
    return [row.prediction for row in predictions]


def swapped_scores(clips: Clips, field: str, config: Config = CONFIG) -> dict[str, dict[str, Any]]:
    mesh = make_mesh(config.mesh)
    return score_swapped_questions(copies(field), STATE, clips.source, clips.tokenizer, config, mesh)


def test_swapped_questions_tell_a_model_that_reads_them_from_one_that_does_not(clips: Clips) -> None:
    targets = [clip.target for clip in clips.source.clips]
    for field, reads in {"question": True, "target": False}.items():
        asked = score(translated(clips, clips.source, field), targets)
        swapped = swapped_scores(clips, field)
        assert swapped.keys() == {"shuffled", "blanked"}
        assert [found != asked for found in swapped.values()] == [reads, reads]


def test_a_shuffled_question_is_the_one_that_the_model_reads(clips: Clips) -> None:
    questions = [clip.question for clip in clips.source.clips]
    shuffled = swapped_questions(questions)["shuffled"]
    read = translated(clips, clips.source.asking(shuffled), "question")
    assert read == list(map(clean_question, shuffled)) != list(map(clean_question, questions))


@pytest.mark.parametrize(
    "changes",
    [{"swap_questions": False}, {"model.inputs": "sign", "model.ssl": "off"}, {"model.inputs": "question"}],
)
def test_questions_are_swapped_only_for_a_model_of_both_inputs(changes: dict[str, Any], clips: Clips) -> None:
    assert swapped_scores(clips, "question", toy_config(**changes)) == {}


def test_other_questions_change_neither_clips_nor_targets(clips: Clips) -> None:
    blank = clips.source.asking(swapped_questions([clip.question for clip in clips.source.clips])["blanked"])
    batches = (
        eval_batches(source, clips.tokenizer, CONFIG.data, CONFIG.translate)
        for source in (clips.source, blank)
    )
    for asked, unasked in zip(*batches, strict=True):
        texts = asked.decoder_texts
        assert texts.question_mask.any() and not unasked.decoder_texts.question_mask.any()
        same = {"question": texts.question, "question_mask": texts.question_mask}
        jax.tree.map(np.testing.assert_array_equal, with_texts(unasked, **same), asked)
    assert all(clip.question for clip in clips.source.clips)


def leave_run(run: Path, clips: Clips, inputs: str = "question") -> list[str]:
    """A finished run's folder, as far as it is read; the translations in it."""
    texts = [f"translation {number}" for number in range(len(clips.source))]
    rows = zip(clips.source.clips, texts)
    predictions = [Prediction(clip.id, clip.question, clip.target, text, 0.0) for clip, text in rows]
    write_predictions(run, "test", predictions)
    config = dataclasses.asdict(toy_config(**{"model.inputs": inputs}))
    (run / "finished.json").write_text(json.dumps({"config": config}))
    return texts


def test_translations_of_a_question_only_run_are_found_where_it_is_finished(
    clips: Clips, tmp_path: Path
) -> None:
    assert read_question_only(tmp_path / "nowhere", "test", clips.source.clips) is None
    texts = leave_run(tmp_path, clips)
    assert read_question_only(tmp_path, "test", clips.source.clips) == texts
    assert read_question_only(tmp_path, "dev", []) is None
    (tmp_path / "finished.json").unlink()
    assert read_question_only(tmp_path, "test", clips.source.clips) is None


@pytest.mark.parametrize("field", ["id", "question", "target"])
def test_translations_of_other_clips_are_refused(field: str, clips: Clips, tmp_path: Path) -> None:
    leave_run(tmp_path, clips)
    *same, last = clips.source.clips
    told = r"question_only names .*predictions.test.jsonl is not of the 6 clips .*--config\.question_only="
    with pytest.raises(ConfigError, match=told):
        read_question_only(tmp_path, "test", [*same, dataclasses.replace(last, **{field: "other"})])
    with pytest.raises(ConfigError, match="not of the 5 clips"):
        read_question_only(tmp_path, "test", same)


def test_a_run_that_sees_the_signs_is_no_question_only_run(clips: Clips, tmp_path: Path) -> None:
    leave_run(tmp_path, clips, "both")
    with pytest.raises(ConfigError, match=r"trained with model\.inputs='both'"):
        read_question_only(tmp_path, "test", clips.source.clips)
