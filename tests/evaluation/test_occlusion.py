"""What a sentence depends on equals the result of leaving out one part after the other."""

from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.frames import select_frames
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer
from sslssaw_jax.evaluation import occlusion
from sslssaw_jax.evaluation.explanation import Explanation, StretchDrop, WordDrop
from sslssaw_jax.evaluation.occlusion import Explainer, split_frames
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.models.decoder_inputs import joint_stream, text_stream
from sslssaw_jax.training.sharding import make_mesh
from sslssaw_jax.types import Features, TrainState
from tests.support.toy import (
    TOY_POINTS,
    assert_close,
    evaluated,
    jit,
    teacher_forced,
    toy_batch,
    toy_state,
    toy_system,
    translate_stage,
    with_texts,
)

QUESTION, SENTENCE = "What comes\u200b  TONIGHT?", "tonight there is fog in the west"
FRAMES = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8)
ALL = np.arange(len(FRAMES))
POINTS = np.random.default_rng(1).random((11, 3 * len(TOY_POINTS))).astype(np.float16)


@pytest.fixture(scope="module")
def tokenizer(tiny_data_dir: Path) -> Tokenizer:
    return load_tokenizer(find_dataset(tiny_data_dir, "avatar_qa").tokenizer_folder, "en_XX")


@pytest.fixture(autouse=True)
def _quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "jit", jit)


class Clips:
    """One clip, with its frames or only as text."""

    def __init__(self, has_video: bool, has_keypoints: bool) -> None:
        self.keypoints = has_keypoints
        count = len(FRAMES) if has_video else 0
        self.clips = [ClipInfo("clip0", count, QUESTION, "", "", "")]
        self.num_frames, self.frame_size = np.array([count]), (16, 16) if has_video else (1, 1)

    def read_frames(self, index: int, kept: np.ndarray, frames: np.ndarray) -> None:
        frames[:] = FRAMES[kept]

    def read_keypoints(self, index: int, kept: np.ndarray) -> np.ndarray:
        return POINTS[kept]


class Setup:
    """A random model that explains."""

    def __init__(self, tokenizer: Tokenizer, system: str = "ssl_ssaw", **changes: Any) -> None:
        sizes = {"data.max_question_tokens": 12, "decode.max_new_tokens": 20}
        self.config = toy_system(system, **sizes | changes)
        self.tokenizer = tokenizer
        self.stage = translate_stage(self.config, tokenizer.vocab_size)
        runner = Runner(self.stage, self.config, tokenizer, make_mesh(self.config.mesh))
        self.explainer = Explainer(runner, fps=2.0)
        self.naive = jit(self._token_log_probs)

    @cached_property
    def state(self) -> TrainState:
        return toy_state(self.stage)

    def explain(self) -> Explanation:
        return self.explainer(
            self.state, Clips(self.stage.reads_video, bool(self.config.data.keypoints)), 0, SENTENCE
        )

    def log_prob(self, kept: np.ndarray, question: str) -> float:
        """Score the sentence by a batch of one clip, whose kept frames have no gaps."""
        ids = [self.tokenizer.encode(text, 24) for text in (question, SENTENCE)] if question else []
        texts = {}
        for name, tokens in zip(("question", "target"), ids, strict=True):
            texts[name] = np.pad(tokens, (0, 24 - len(tokens)))[None].astype(np.int32)
            texts[f"{name}_mask"] = np.arange(24)[None] < len(tokens)
        count = np.array([len(kept)], np.int32)
        points = Features(np.pad(POINTS[kept], ((0, 12 - len(kept)), (0, 0))), 0 * count, count)
        one = with_texts(toy_batch(0, clips=1), **texts).replace(
            frames=np.pad(FRAMES[kept], ((0, 12 - len(kept)), (0, 0), (0, 0), (0, 0))),
            frame_count=count,
            keypoints=points if self.config.data.keypoints else None,
        )
        found = jax.device_get(self.naive(evaluated(self.stage, self.state), one))[0]
        places = range(len(found) - 24, len(found) - 24 + len(ids[1]) - 1)  # without the language code
        return float(sum(found[place, token] for place, token in zip(places, ids[1])))

    def _token_log_probs(self, model: Any, batch: Any) -> jax.Array:
        texts = batch.decoder_texts
        stream = text_stream(texts.target, texts.target_mask)
        if getattr(self.config.model, "ssl", "off") == "prefix":
            stream = joint_stream(text_stream(texts.question, texts.question_mask), stream)
        return jax.nn.log_softmax(teacher_forced(self.stage, model, batch, stream))


@pytest.mark.parametrize(
    "system",
    [
        "ssl_ssaw",
        *(
            pytest.param(other, marks=pytest.mark.slow)
            for other in ("slrt", "nslt", "question_only", "ts_slt")
        ),
    ],
)
def test_all_occlusions_in_one_call_equal_one_after_the_other(tokenizer, system) -> None:
    setup = Setup(tokenizer, system)
    found = setup.explain()
    rests = {"what": "comes tonight?", "comes": "what tonight?", "tonight": "what comes?"}
    rests = rests if setup.stage.reads_question else {}
    assert [part.word for part in found.words] == [*rests]
    whole = setup.log_prob(ALL, "what comes tonight?")
    assert_close(found.log_prob, whole)
    for part, rest in zip(found.words, rests.values(), strict=True):
        assert abs(part.drop - (whole - setup.log_prob(ALL, rest))) < 1e-4 * abs(whole)
    assert max(abs(part.drop) for part in (*found.words, *found.stretches)) > 0.01
    shown = split_frames(len(FRAMES)) if setup.stage.reads_video else []
    assert [(part.start, part.stop) for part in found.stretches] == [(s.start / 2, s.stop / 2) for s in shown]
    for part, stretch in zip(found.stretches, shown):
        rest = np.delete(ALL, stretch)
        assert abs(part.drop - (whole - setup.log_prob(rest, "what comes tonight?"))) < 1e-4 * abs(whole)


def test_padding_changes_no_drop(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tokenizer)
    tight = setup.explain()
    monkeypatch.setattr(occlusion, "ROWS", 17)
    monkeypatch.setattr(occlusion, "TOKENS", 19)
    more = Setup(tokenizer, **{"data.max_question_tokens": 20, "data.max_frames": 15})
    more.state = setup.state
    wide = more.explain()
    for one, other in zip((*tight.words, *tight.stretches), (*wide.words, *wide.stretches), strict=True):
        assert abs(one.drop - other.drop) < 1e-4 * abs(tight.log_prob)


def test_a_sentence_has_no_more_tokens_than_decoding_writes(tokenizer) -> None:
    """The settings are checked for as many positions, and not for more."""
    setup, lengths = Setup(tokenizer, **{"decode.max_new_tokens": 6}), []
    setup.state = TrainState(*[None] * 4)

    def score(params: Any, batch_stats: Any, batch: Any) -> np.ndarray:
        lengths.append(batch.decoder_texts.target.shape[1])
        return np.zeros(len(batch.valid))

    setup.explainer._score = score
    setup.explain()
    assert len(tokenizer.encode(SENTENCE, 100)) > 7
    assert lengths == [6 + 1]


def test_what_a_model_does_not_read_is_not_left_out(tokenizer) -> None:
    setup = Setup(tokenizer, **{"model.inputs": "video", "model.ssl": "off"})
    setup.state = TrainState(*[None] * 4)
    setup.explainer._score = lambda params, batch_stats, batch: np.arange(len(batch.valid))
    found = setup.explain()
    assert not found.words
    assert [part.drop for part in found.stretches] == [*range(-1, -9, -1)]


def test_stretches_of_a_video_of_which_frames_are_left_out_are_in_its_own_seconds(tokenizer) -> None:
    """Eleven frames at two a second are five and a half seconds, also for a model that reads six of them."""
    setup, seen = Setup(tokenizer, **{"data.max_frames": 6}), []
    setup.state = TrainState(*[None] * 4)
    setup.explainer._score = lambda params, batch_stats, batch: seen.append(batch) or np.zeros(32)
    stretches = setup.explain().stretches
    assert [part.start for part in stretches] == pytest.approx(np.arange(6) * 5.5 / 6)
    assert stretches[-1].stop == pytest.approx(5.5)
    np.testing.assert_array_equal(seen[0].frames, FRAMES[select_frames(11, 6, None)])


def test_the_first_word_is_the_one_with_the_highest_drop() -> None:
    words = [WordDrop("did", 0.5), WordDrop("he", 2.0), WordDrop("please", -3.0)]
    assert Explanation("", 0.0, words, [StretchDrop(0, 1, 9.0)]).first_word == "he"
    assert Explanation("", 0.0, [], []).first_word == ""


@pytest.mark.parametrize(("count", "parts"), [(0, 0), (1, 0), (2, 2), (7, 7), (60, 8)])
def test_stretches_are_all_frames_in_order_and_about_as_long(count: int, parts: int) -> None:
    found = split_frames(count)
    assert len(found) == parts
    assert [frame for part in found for frame in part] == [*range(count if parts else 0)]
    assert not parts or max(map(len, found)) - min(map(len, found)) <= 1
