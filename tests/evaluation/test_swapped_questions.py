import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.evaluation.leakage import swapped_questions
from sslssaw_jax.evaluation.metrics import score
from sslssaw_jax.evaluation.predictions import Prediction, Sentence, read_question_only, write_predictions
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.evaluation.split_translator import SplitLoss, SplitTranslator, score_swapped_questions
from sslssaw_jax.models.beam_search import IMPOSSIBLE
from sslssaw_jax.stages.translation import Translated
from sslssaw_jax.training.sharding import make_mesh
from sslssaw_jax.types import Batch, TrainState
from tests.support.toy import toy_config, translate_stage, with_texts

BATCH_SIZE = {"translate.clips_per_batch": 4, "translate.frame_budget": 48}
CONFIG: Config = toy_config(**BATCH_SIZE)
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


def copies(clips: Clips, field: str, config: Config = CONFIG, *, gate: bool = False) -> SplitTranslator:
    """A translator whose model repeats the text in a field of its batch."""
    runner = Runner(translate_stage(config), config, clips.tokenizer, make_mesh(config.mesh))
    translator = SplitTranslator(runner)

    def translate(params: None, batch_stats: None, batch: Batch) -> Translated:
        tokens, mask = (np.asarray(getattr(batch.decoder_texts, name)) for name in (field, f"{field}_mask"))
        score = np.zeros((len(tokens), 1))
        return Translated(np.where(mask, tokens, 1)[:, None], score, score, mask if gate else None, mask)

    translator._translate = translate  # type: ignore[assignment]
    return translator


def translated(clips: Clips, source: ClipSource, field: str) -> list[str]:
    predictions, _ = copies(clips, field)(STATE, source)
    return [row.prediction for row in predictions]


def test_swapped_questions_tell_a_model_that_reads_them_from_one_that_does_not(clips: Clips) -> None:
    targets = [clip.target for clip in clips.source.clips]
    for field, reads in {"question": True, "target": False}.items():
        asked = score(translated(clips, clips.source, field), targets)
        swapped = score_swapped_questions(copies(clips, field), STATE, clips.source)
        assert swapped.keys() == {"shuffled", "blanked"}
        assert [found != asked for found in swapped.values()] == [reads, reads]


def test_a_shuffled_question_is_the_one_that_the_model_reads(clips: Clips) -> None:
    questions = [clip.question for clip in clips.source.clips]
    shuffled = swapped_questions(questions)["shuffled"]
    read = translated(clips, clips.source.asking(shuffled), "question")
    assert read == list(map(clean_question, shuffled)) != list(map(clean_question, questions))


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


def test_a_sentence_counts_once_with_its_best_score_and_only_if_it_was_found(clips: Clips) -> None:
    """Several token sequences may spell one sentence; here the first and the third do."""
    translator = copies(clips, "target")
    written = [clips.tokenizer.encode(text, 8) for text in ("rain", "snow", "rain", "wind")]
    tokens = np.stack([np.pad(ids, (0, 8 - len(ids)), constant_values=1) for ids in written])
    scores, ranks = np.array([-0.5, -0.7, -0.9, IMPOSSIBLE]), np.array([0.75, 0.5, 0.25, IMPOSSIBLE])

    def translate(params: None, batch_stats: None, batch: Batch) -> Translated:
        every = (np.repeat(one[None], len(batch.valid), 0) for one in (tokens, scores, ranks))
        return Translated(*every, None, None)

    translator._translate = translate  # type: ignore[assignment]
    found = translator.search(STATE, clips.source, [3])
    assert found.keys() == {3}
    assert found[3].sentences == [Sentence("rain", -0.5), Sentence("snow", -0.7)]
    assert found[3].ranks == [0.75, 0.5]


def test_translations_and_losses_are_those_of_the_moving_average(clips: Clips) -> None:
    read = []
    translator, state = copies(clips, "target"), TrainState(0, "raw", None, None, "average")
    translate = translator._translate
    translator._translate = lambda params, *rest: read.append(params) or translate(params, *rest)
    translator(state, clips.source)
    loss = SplitLoss(Runner(translate_stage(CONFIG), CONFIG, clips.tokenizer, make_mesh(CONFIG.mesh)))
    loss._step = lambda params, *_: read.append(params) or {"loss": 1.0}
    loss(state, clips.source)
    assert len(read) > 2 and set(read) == {"average"}


def test_the_loss_on_a_split_is_a_mean_over_clips_whatever_the_batches(clips: Clips) -> None:
    loss = SplitLoss(Runner(translate_stage(CONFIG), CONFIG, clips.tokenizer, make_mesh(CONFIG.mesh)))
    sizes = []

    def places(params: None, batch_stats: None, batch: Batch) -> dict[str, float]:
        index = np.asarray(batch.index)[np.asarray(batch.valid)]
        sizes.append(len(index))
        return {"loss": index.mean()}

    loss._step = places  # type: ignore[assignment]
    assert loss(STATE, clips.source)["loss"] == pytest.approx(2.5)
    assert sum(sizes) == 6 and len(set(sizes)) > 1


def leave_run(run: Path, clips: Clips, *, reads_video: bool = False) -> list[str]:
    """A finished run's folder, with the files that are read, and its translations."""
    texts = [f"translation {number}" for number in range(len(clips.source))]
    rows = zip(clips.source.clips, texts)
    predictions = [Prediction(clip.id, clip.question, clip.target, text, 0.0) for clip, text in rows]
    write_predictions(run, "test", predictions)
    (run / "finished.json").write_text(json.dumps({"reads_video": reads_video}))
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
    told = r"question_only_run names .*predictions.test.jsonl is not for the 6 clips .*question_only_run="
    with pytest.raises(ConfigError, match=told):
        read_question_only(tmp_path, "test", [*same, dataclasses.replace(last, **{field: "other"})])
    with pytest.raises(ConfigError, match="not for the 5 clips"):
        read_question_only(tmp_path, "test", same)


def test_a_run_that_sees_the_signs_is_no_question_only_run(clips: Clips, tmp_path: Path) -> None:
    leave_run(tmp_path, clips, reads_video=True)
    with pytest.raises(ConfigError, match=r"trained with video"):
        read_question_only(tmp_path, "test", clips.source.clips)


def test_a_gate_has_no_words_of_a_question_that_the_model_does_not_read(clips: Clips) -> None:
    for inputs, words in {"both": "what rain", "video": ""}.items():
        config = toy_config(**{"model.inputs": inputs, "model.ssl": "off"} | BATCH_SIZE)
        translator = copies(clips, "target", config, gate=True)
        gate = translator.search(STATE, clips.source, [0])[0].gate
        assert gate is not None
        assert "".join(gate.tokens).replace("\u2581", " ").replace("</s>en_XX", "").strip() == words
