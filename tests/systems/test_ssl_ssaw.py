from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.decoder_inputs import joint_stream, text_stream
from sslssaw_jax.models.mbart import TokenEmbedding
from sslssaw_jax.stages.losses import cross_entropy
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.types import Batch, TrainState
from tests.support.toy import (
    EOS,
    LANGUAGE,
    NO_DROPOUT,
    TEXT,
    VOCAB_SIZE,
    assert_close,
    evaluated,
    jit,
    loss_of,
    padded,
    sgd_step,
    teacher_forced,
    toy_batch,
    toy_config,
    toy_state,
    translate_stage,
    translator,
    with_texts,
)


class Setup(NamedTuple):
    """A random model with its evaluation functions, compiled once for all tests."""

    config: Config
    stage: Stage
    state: TrainState
    model: Any
    metrics: Any  # of a batch
    logits: Any  # of a batch's targets
    translate: Any  # of a batch


@cache
def setup(**changes: Any) -> Setup:
    config = toy_config(init_from=None, **{f"model.{key}": value for key, value in changes.items()})
    stage = translate_stage(config, VOCAB_SIZE)
    state = toy_state(stage)
    model = evaluated(stage, state)

    def metrics(model: Any, batch: Batch) -> dict[str, jax.Array]:
        value, parts = loss_of(stage, model, batch)
        return {"loss": value, **parts}

    def logits(model: Any, batch: Batch) -> jax.Array:
        target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
        return teacher_forced(stage, model, batch, target)

    translate = translator(stage, config)

    def compiled(function: Any, *arguments: Any) -> Any:
        jitted = jit(function)
        return lambda batch: jax.device_get(jitted(*arguments, batch))

    return Setup(
        config,
        stage,
        state,
        model,
        compiled(metrics, model),
        compiled(logits, model),
        compiled(translate, state.params, state.batch_stats),
    )


@pytest.fixture(scope="module")
def batch():
    return toy_batch(seed=0, clips=4)


@pytest.fixture(scope="module")
def other():
    """Other frames and texts."""
    return toy_batch(seed=1, clips=4)


def test_streams_of_a_written_example():
    question, question_mask = np.array([[11, 12, EOS, LANGUAGE, 99]]), np.array([[1, 1, 1, 1, 0]], bool)
    target, target_mask = np.array([[21, EOS, LANGUAGE]]), np.array([[1, 1, 1]], bool)
    first, second = text_stream(question, question_mask), text_stream(target, target_mask)
    joint = jax.device_get(joint_stream(first, second))
    # the joint is where the question's </s> would have to predict its language code
    np.testing.assert_array_equal(joint.mask, [[1, 1, 1, 1, 0, 1, 1, 1]])
    np.testing.assert_array_equal(joint.tokens[joint.mask], [LANGUAGE, 11, 12, EOS, LANGUAGE, 21, EOS])
    np.testing.assert_array_equal(joint.scored, [[1, 1, 1, 0, 0, 1, 1, 0]])
    np.testing.assert_array_equal(joint.labels[joint.scored], [11, 12, EOS, 21, EOS])


def test_a_row_without_a_text_is_not_scored():
    stream = text_stream(np.full((1, 4), 7), np.zeros((1, 4), bool))
    assert not stream.scored.any()
    assert not stream.mask.any()


def test_the_question_loss_sees_no_token_of_the_target(batch, other):
    metrics = setup(ssl="prefix").metrics
    texts = other.decoder_texts
    with_other_target = with_texts(batch, target=texts.target, target_mask=texts.target_mask)
    before, after = metrics(batch), metrics(with_other_target)
    assert after["loss_question"] == before["loss_question"]
    assert abs(after["loss_sentence"] - before["loss_sentence"]) > 0.01


def test_gradients_reach_the_question_loss_from_no_target_and_the_sentence_loss_from_the_question(
    batch, monkeypatch
):
    """With a change to the decoder's input; the encoder's question stays as it is."""
    model, stage = setup(ssl="prefix").model, setup(ssl="prefix").stage
    embed = TokenEmbedding.__call__

    def reach(delta):
        def changed(self, ids):
            return embed(self, ids) + (delta if ids.shape[1] == 2 * TEXT else 0)

        monkeypatch.setattr(TokenEmbedding, "__call__", changed)
        _, metrics = loss_of(stage, model, batch)
        return metrics["loss_question"], metrics["loss_sentence"]

    delta = jnp.zeros((len(batch.valid), 2 * TEXT, model.embedding.embed.features))
    jacobian_D, jacobian_S = jax.device_get(jit(jax.jacrev(reach))(delta))
    texts = batch.decoder_texts
    question = np.hstack([texts.question_mask, np.zeros_like(texts.target_mask)])
    target = np.hstack([np.zeros_like(texts.question_mask), texts.target_mask])
    reached_D, reached_S = (np.abs(jacobian).max(axis=-1) > 0 for jacobian in (jacobian_D, jacobian_S))
    last_D = question & ~np.roll(question, -1, axis=1)
    np.testing.assert_array_equal(reached_D, question & ~last_D)
    last_S = target & ~np.pad(target[:, 1:], ((0, 0), (0, 1)))
    np.testing.assert_array_equal(reached_S, (question | target) & ~last_S)


def test_the_three_self_supervisions_share_their_parts(batch):
    """The same parameters: `separate` has the question loss of `prefix` and the sentence loss of `off`."""
    prefix, separate, off = (setup(ssl=ssl).metrics(batch) for ssl in ("prefix", "separate", "off"))
    assert_close(separate["loss_question"], prefix["loss_question"])
    assert_close(separate["loss_sentence"], off["loss_sentence"])
    assert abs(prefix["loss_sentence"] - off["loss_sentence"]) > 0.01
    assert "loss_question" not in off
    for metrics in (prefix, separate, off):
        assert_close(metrics["loss"], metrics["loss_sentence"] + metrics.get("loss_question", 0))


@pytest.mark.parametrize("inputs", ["question", "video", "both"])
def test_the_model_reads_its_inputs_and_no_other(batch, other, inputs):
    logits = setup(inputs=inputs, ssl="off").logits
    frames = np.resize(other.frames, batch.frames.shape)
    before = logits(batch)
    texts = other.decoder_texts
    changes = {
        "question": with_texts(batch, question=texts.question, question_mask=texts.question_mask),
        "video": batch.replace(frames=frames),
    }
    for part, changed in changes.items():
        difference = np.abs(logits(changed) - before).max()
        assert difference > 0.01 if inputs in (part, "both") else difference == 0


@pytest.mark.parametrize("change", [{}, {"fusion.positions": True}, {"fusion.convolution": True}])
def test_ssaw_alone_does_not_see_the_order_of_words(batch, change):
    translate = setup(**change).translate
    question, swapped = batch.decoder_texts.question, [1, 0]
    assert (question[:, 0] != question[:, 1]).any()
    moved = with_texts(batch, question=np.concatenate([question[:, swapped], question[:, 2:]], axis=1))
    gate, moved_gate = translate(batch).gate[:, :2], translate(moved).gate[:, swapped]
    difference = np.abs(moved_gate - gate).max()
    assert difference > 1e-3 if change else difference < 1e-6


def test_a_clip_without_a_question_is_translated_as_by_the_model_that_reads_none(batch):
    """The same parameters; the other clips of its batch keep their questions."""
    both, sign = setup(ssl="prefix"), setup(inputs="video", ssl="off")
    row, asked = 1, np.arange(len(batch.valid)) != 1
    mixed = with_texts(batch, question_mask=batch.decoder_texts.question_mask & asked[:, None])
    found, expected = both.translate(mixed), sign.translate(batch)
    np.testing.assert_array_equal(found.tokens[row], expected.tokens[row])
    assert_close(found.score[row], expected.score[row])
    assert_close(found.gate[row][found.mask[row]], expected.gate[row][expected.mask[row]])
    np.testing.assert_array_equal(found.tokens[asked], both.translate(batch).tokens[asked])


def test_without_any_question_the_loss_is_that_of_the_model_that_reads_none(batch):
    no_question = with_texts(batch, question_mask=np.zeros_like(batch.decoder_texts.question_mask))
    metrics = setup(ssl="prefix").metrics(no_question)
    target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
    logits = setup(inputs="video", ssl="off").logits(batch)
    assert metrics["loss_question"] == 0
    assert_close(metrics["loss"], cross_entropy(logits, target.labels, target.scored, target.scored.sum()))
    assert np.isfinite(setup(inputs="question", ssl="off").logits(no_question)).all()


@pytest.mark.slow
def test_an_ensemble_of_one_model_twice_is_that_model(batch):
    config, stage, state, *_, translate = setup(ssl="prefix")
    alone, both = translate(batch), translator(stage, config)
    twice = jit(both)((state.params,) * 2, (state.batch_stats,) * 2, batch)
    np.testing.assert_array_equal(twice.tokens, alone.tokens)
    assert_close(twice.score, alone.score)
    assert_close(twice.gate, alone.gate)


@pytest.mark.slow
def test_padding_changes_no_step_of_training(batch):
    """The loss, every gradient and every batch statistic."""
    config = toy_config(**{"translate.label_smoothing": 0.2} | NO_DROPOUT)
    stage = translate_stage(config, VOCAB_SIZE)
    state, step = toy_state(stage), sgd_step(stage)
    expected, metrics = step(state, batch)
    found, padded_metrics = step(state, padded(batch, rows=2, frames=5, tokens=3))
    assert_close(padded_metrics, metrics, 1e-4)
    assert_close(found.batch_stats, expected.batch_stats)
    assert_close(found.params, expected.params, 1e-3)  # in float64 1e-7, measured
    assert np.isfinite(metrics["grad_norm"]) and metrics["grad_norm"] > 0.1
    unasked = step(state, with_texts(batch, question_mask=np.zeros_like(batch.decoder_texts.question_mask)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(unasked))
