import dataclasses
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.baselines import QB_GASLT, QB_SLRT
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.decoder_inputs import Stream, joint_stream, text_stream
from sslssaw_jax.models.fusion import FUSIONS
from sslssaw_jax.models.mbart import TokenEmbedding
from sslssaw_jax.stages.losses import cross_entropy
from sslssaw_jax.stages.step import Stage, train_step
from sslssaw_jax.stages.translate import encode, translate_stage, translate_step
from sslssaw_jax.types import Batch, TrainState
from tests.support.toy import (
    EOS,
    LANGUAGE,
    NO_DROPOUT,
    PAD,
    TEXT,
    VOCAB_SIZE,
    assert_close,
    evaluated,
    jit,
    one_clip,
    padded,
    sgd_step,
    toy_batch,
    toy_config,
    toy_state,
    with_texts,
)


class Setup(NamedTuple):
    """A random model with what evaluation asks of it, compiled once for all tests."""

    config: Config
    stage: Stage
    state: TrainState
    model: Any
    metrics: Any  # of a batch
    logits: Any  # of a batch's targets
    translate: Any  # of a batch


SLRT, GASLT = (
    {key.removeprefix("model."): value for key, value in method.items() if key.startswith("model.")}
    for method in (QB_SLRT, QB_GASLT)
)


@cache
def setup(**changes: Any) -> Setup:
    config = toy_config(init_from="none", **{f"model.{key}": value for key, value in changes.items()})
    stage = translate_stage(config, VOCAB_SIZE)
    state = toy_state(stage)
    model = evaluated(stage, state)

    def metrics(model: Any, batch: Batch) -> dict[str, jax.Array]:
        value, parts = stage.loss(model, batch, None)
        return {"loss": value, **parts}

    def logits(model: Any, batch: Batch) -> jax.Array:
        texts = batch.decoder_texts
        return model.decode(text_stream(texts.target, texts.target_mask), encode(model, batch, config))

    ids = {"language_id": LANGUAGE, "eos_id": EOS, "pad_id": PAD}
    translate = partial(translate_step, graphdef=stage.eval_def, config=config, **ids)

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
    """By a change to what the decoder reads; the encoder's question stays as it is."""
    model, loss = setup(ssl="prefix").model, setup(ssl="prefix").stage.loss
    embed = TokenEmbedding.__call__

    def reach(delta):
        def changed(self, ids):
            return embed(self, ids) + (delta if ids.shape[1] == 2 * TEXT else 0)

        monkeypatch.setattr(TokenEmbedding, "__call__", changed)
        _, metrics = loss(model, batch, None)
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


@pytest.mark.parametrize("inputs", ["question", "sign", "both"])
def test_the_model_reads_its_inputs_and_no_other(batch, other, inputs):
    logits = setup(inputs=inputs, ssl="off").logits
    frames = np.resize(other.frames, batch.frames.shape)
    before = logits(batch)
    texts = other.decoder_texts
    changes = {
        "question": with_texts(batch, question=texts.question, question_mask=texts.question_mask),
        "sign": batch.replace(frames=frames),
    }
    for part, changed in changes.items():
        difference = np.abs(logits(changed) - before).max()
        assert difference > 0.01 if inputs in (part, "both") else difference == 0


def test_a_clip_without_a_question_is_translated_as_by_the_model_that_reads_none(batch):
    """The same parameters; the other clips of its batch keep their questions."""
    both, sign = setup(ssl="prefix"), setup(inputs="sign", ssl="off")
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
    logits = setup(inputs="sign", ssl="off").logits(batch)
    assert metrics["loss_question"] == 0
    assert_close(metrics["loss"], cross_entropy(logits, target.labels, target.scored))
    assert np.isfinite(setup(inputs="question", ssl="off").logits(no_question)).all()


@pytest.mark.parametrize("changes", [*({"fusion.kind": kind} for kind in FUSIONS), SLRT, GASLT])
def test_a_packed_batch_equals_each_clip_alone(batch, changes):
    logits = setup(**changes).logits
    packed = logits(batch)
    for row in range(len(batch.valid)):
        alone = logits(one_clip(batch, row))
        mask = batch.decoder_texts.target_mask[row]
        assert_close(alone[0][mask], packed[row][mask], 2e-5)


@pytest.mark.parametrize("copy_gate", [False, True])
def test_a_translation_depends_on_no_other_clip_and_on_no_padding(batch, copy_gate):
    translate = setup(ssl="prefix", copy_gate=copy_gate).translate
    packed, more = translate(batch), translate(padded(batch, rows=2, frames=5, tokens=3))
    clips = len(batch.valid)
    np.testing.assert_array_equal(more.tokens[:clips], packed.tokens)
    assert_close(more.score[:clips], packed.score)
    assert_close(more.gate[more.mask], packed.gate[packed.mask])
    assert (more.tokens[clips:] == PAD).all()
    assert not more.mask[clips:].any()
    for row in range(clips):
        alone = translate(one_clip(batch, row))
        np.testing.assert_array_equal(alone.tokens[0], packed.tokens[row])
        assert_close(alone.score[0], packed.score[row])
        assert_close(alone.gate[alone.mask], packed.gate[row][packed.mask[row]])
    assert len(np.unique(packed.tokens)) > 4, "were all sentences alike, this would say little"


def test_an_ensemble_of_one_model_twice_is_that_model(batch):
    config, stage, state, *_ = setup(ssl="prefix")
    ids = {"language_id": LANGUAGE, "eos_id": EOS, "pad_id": PAD}
    translate = partial(translate_step, graphdef=stage.eval_def, config=config, **ids)
    alone = jit(translate)(state.params, state.batch_stats, batch)
    twice = jit(translate)((state.params,) * 2, (state.batch_stats,) * 2, batch)
    np.testing.assert_array_equal(twice.tokens, alone.tokens)
    assert_close(twice.score, alone.score)
    assert_close(twice.gate, alone.gate)


@pytest.mark.parametrize(
    "changes", [{"ssl": "prefix"}, {"ssl": "off"}, {"ssl": "off", "copy_gate": True}, SLRT, GASLT]
)
def test_one_beam_equals_greedy_decoding_without_a_cache(batch, changes):
    config, stage, state, model, *_ = setup(**changes)
    ids = {"language_id": LANGUAGE, "eos_id": EOS, "pad_id": PAD}
    greedy = dataclasses.replace(config, decode=dataclasses.replace(config.decode, beams=1))
    translate = partial(translate_step, graphdef=stage.eval_def, config=greedy, **ids)
    found = jax.device_get(jit(translate)(state.params, state.batch_stats, batch))
    new_tokens = greedy.decode.max_new_tokens
    place = np.arange(TEXT + 1 + new_tokens)

    @jit
    def next_token(batch, tokens, length):
        mask = np.ones((len(batch.valid), 1), bool) & (place < length)
        stream = Stream(tokens, mask, tokens, mask)
        logits_V = model.decode(stream, encode(model, batch, config))[0, length - 1]
        return logits_V.at[PAD].set(-jnp.inf).argmax()

    texts = batch.decoder_texts
    for row in range(len(batch.valid)):
        clip = one_clip(batch, row)
        words = texts.question[row][texts.question_mask[row]][:-2]
        written = [LANGUAGE, *words, EOS, LANGUAGE] if changes["ssl"] == "prefix" else [LANGUAGE]
        start = len(written)
        while len(written) < start + new_tokens and written[start:][-1:] != [EOS]:
            tokens = np.tile(np.pad(written, (0, len(place) - len(written))), (len(batch.valid), 1))
            last = len(written) == start + new_tokens - 1
            written.append(EOS if last else int(next_token(clip, tokens, len(written))))
        np.testing.assert_array_equal(found.tokens[row], (written[start:] + [PAD] * new_tokens)[:new_tokens])


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


# the video's gradient is most of what is compiled: once is enough
@pytest.mark.parametrize("method", [QB_SLRT | {"model.inputs": "question"}, QB_GASLT], ids=["slrt", "gaslt"])
def test_a_baseline_learns_a_batch_by_heart(batch, method):
    stage = translate_stage(toy_config(**method, **NO_DROPOUT), VOCAB_SIZE)
    optimizer = optax.adam(1e-2)
    state = stage.init(jax.random.key(0), optimizer)
    step = jit(partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer))
    history = []
    for _ in range(40):
        state, metrics = step(state, batch, jax.random.key(1))
        history.append(jax.device_get(metrics))
    assert history[-1]["accuracy"] > 0.95 > 0.3 > history[0]["accuracy"]
    for part in [key for key in metrics if key.startswith("loss")]:
        assert history[-1][part] < 0.3 * history[0][part]
