"""GBT's losses, its schedule and what it refuses; its blocks are in `tests/models/test_gloss_graph.py`."""

from functools import partial

import jax
import numpy as np
import optax
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import to_config_dict
from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.models.gloss_graph import Glosses, Read
from sslssaw_jax.stages.question_contrast import global_contrast, local_contrast
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.systems import SYSTEMS, gbt, read_config
from sslssaw_jax.systems.gbt import GBTConfig, temperature_of
from sslssaw_jax.training.stage_folders import plan_stages
from sslssaw_jax.weights.initial_state import replace_variables, variables, whole_model
from tests.support.toy import (
    TOY_GLOSSES,
    VOCAB_SIZE,
    jit,
    make_stages,
    sgd_step,
    toy_batch,
    toy_state,
    toy_system,
    translate_stage,
)

E = np.e
KEY = jax.random.key(0)


def found(**parts: np.ndarray) -> Read:
    """A model's findings, as far as a contrastive loss needs them."""
    return Read(**dict.fromkeys(Read._fields) | parts)


def test_the_local_contrast_of_one_hot_states_equals_a_hand_computation() -> None:
    """Clip 0 has three glosses, the last with a wrong word; clip 1 has one gloss, so no wrong word."""
    spans = np.zeros((2, 3, 5), bool)
    spans[0, 0, :2] = spans[0, 1, 2] = spans[0, 2, 3:] = spans[1, 0, 1] = True
    seen = np.eye(4, dtype=np.float32)[[[0, 0, 1, 2, 2], [0] * 5]]
    links = np.zeros((2, 3, 4), np.float32)
    links[0, 0, 0] = links[0, 1, 1] = links[0, 2, 3] = links[1, 0, 0] = 1
    read = found(
        glosses=Glosses(np.zeros((2, 3)), spans.any(axis=2), spans),
        links=links,
        seen=seen,
        asked=np.eye(4, dtype=np.float32)[[[0, 1, 2, 3]] * 2],
        word_ids=np.array([[10, 11, 12, 13]] * 2),
        word_mask=np.ones((2, 4), bool),
    )
    loss, counts = local_contrast(read, KEY)
    np.testing.assert_array_equal(counts, [True, False])
    np.testing.assert_allclose(loss[0], (2 * np.log((E + 2) / E) + np.log(3)) / 3, rtol=1e-5)
    same_word = read._replace(word_ids=np.array([[10, 10, 12, 13]] * 2))  # twice in the question
    loss, _ = local_contrast(same_word, KEY)
    # glosses 0 and 1 see the word of gloss 2 twice; gloss 2 sees the words of both
    np.testing.assert_allclose(loss[0], (2 * np.log((E + 2) / E) + np.log(3)) / 3, rtol=1e-5)


def test_the_global_contrast_takes_as_wrong_no_question_with_the_same_words() -> None:
    """Clips 0 and 1 ask the same, clip 2 something else, clip 3 nothing."""
    word_mask = np.array([[True, False], [True, False], [True, True], [False, False]])
    read = found(
        position_states=np.eye(3, dtype=np.float32)[[[0, 0], [1, 1], [2, 1], [0, 0]]],
        mask=np.array([[True, True]] * 2 + [[True, False]] * 2),
        word_ids=np.array([[7, 1], [7, 2], [7, 8], [7, 3]]),
        word_mask=word_mask,
    )
    asked = np.eye(3, dtype=np.float32)[[[0, 2], [0, 2], [2, 2], [0, 0]]]
    loss, counts = global_contrast(read, asked, KEY)
    np.testing.assert_array_equal(counts, [True, True, True, False])
    np.testing.assert_allclose(loss[0], np.log((E + 2) / E), rtol=1e-5)
    np.testing.assert_allclose(loss[1], np.log(3), rtol=1e-5)
    np.testing.assert_allclose(loss[2], np.log((E + 2) / E), rtol=1e-5)


def test_the_temperature_falls_from_epoch_to_epoch_and_never_to_zero() -> None:
    of = partial(temperature_of, GBTConfig(), clips_of_an_epoch=50)
    assert [float(of(clips)) for clips in (np.int32(0), np.int32(49))] == [5, 5]
    np.testing.assert_allclose(of(np.int32(50 * 20)), 5 / E, rtol=1e-5)
    assert float(of(np.int32(50 * 10_000))) == pytest.approx(1e-5)


@pytest.mark.slow
def test_words_are_chosen_by_the_temperature_of_an_epoch_of_trained_clips(monkeypatch) -> None:
    clips = [ClipInfo(str(number), 1, "", "", "", "") for number in range(16)]
    config = toy_system("gbt", **{"data.text_only": 0.75})
    inputs = StageInputs(VOCAB_SIZE, clips=lambda split: clips, glosses=lambda: TOY_GLOSSES)
    *_, stage = SYSTEMS["gbt"].make_stages(config, inputs)
    asked: list[int] = []
    used: list[float] = []
    choose = gbt.choose_words
    monkeypatch.setattr(gbt, "temperature_of", lambda model, seen, clips: asked.append(clips) or 7.0)
    monkeypatch.setattr(gbt, "choose_words", lambda *given: used.append(given[4]) or choose(*given))
    jax.eval_shape(sgd_step(stage), toy_state(stage), toy_batch(0))
    assert (asked, used) == ([4], [7.0])


def test_a_training_that_goes_on_from_a_finished_model_has_a_temperature_of_its_own() -> None:
    stage = translate_stage(toy_system("gbt"))
    fresh, count = toy_state(stage), ("clips_seen",)
    trained = replace_variables(toy_state(stage, seed=1), [(count, np.int32(1000))])
    found = variables(whole_model(trained, stage.counters)(fresh))
    assert found[count] == variables(fresh)[count] < 1000
    jax.tree.map(np.testing.assert_array_equal, found | {count: 1000}, variables(trained))


@pytest.mark.slow
def test_all_losses_fall_and_clips_are_counted() -> None:
    batch, optimizer = toy_batch(0, clips=4), optax.adam(1e-2)
    stage = translate_stage(toy_system("gbt"))
    state = stage.init(jax.random.key(0), optimizer)
    step = jit(partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer))
    history = []
    for _ in range(40):
        state, metrics = step(state, batch, KEY)
        history.append(jax.device_get(metrics))
    assert int(state.batch_stats["clips_seen"].get_value()) == 4 * 40
    last = {key: np.mean([row[key] for row in history[-5:]]) for key in metrics}
    for key, share in (
        ("loss_sentence", 0.3),
        ("loss_gloss", 0.3),
        ("loss_global", 0.7),
        ("loss_local", 0.7),
    ):
        first = max(row[key] for row in history[:15])  # at first there are no glosses
        assert last[key] < share * first, key


def test_the_translation_goes_on_from_the_recogniser_with_its_head(tmp_path) -> None:
    tree = to_config_dict(toy_system("gbt"))
    tree.warm_start.epochs = tree.recognize.epochs = tree.translate.epochs = 1
    tree.init_from = "recogniser"
    planned = dict((stage.name, folder) for stage, folder in plan_stages(read_config(tree), tmp_path / "run"))
    assert list(planned) == ["warm_start", "recognize", "translate"]
    assert planned["recognize"] == tmp_path / "recogniser"
    recognize, translate = make_stages(read_config(tree))[1:]
    states = [stage.abstract_state() for stage in (recognize, translate)]
    for module in ("video", "head"):
        assert translate.modules[module] == module
        theirs, ours = (jax.tree.map(lambda x: x.shape, state.params[module]) for state in states)
        assert jax.tree.leaves(theirs) == jax.tree.leaves(ours)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.gloss_head.d_model": 8}, r"model\.gloss_head\.d_model is 8; it must be d_model, 16"),
        ({"model.max_positions": 3}, r"max_positions is 3; config\.data\.max_frames of 12 needs 4"),
        ({"data.max_question_tokens": 65}, r"max_positions is 64; config\.data\.max_question_tokens of 65"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_system("gbt", **changes)
