"""CSGCR: words and their bags by hand, and a run that keeps its choices on dev."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.systems.csgcr import PUBLISHED, SMALL
from sslssaw_jax.config.experiment import to_config_dict
from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.data.glosses import WordVocabulary
from sslssaw_jax.evaluation.choices import WEIGHTS
from sslssaw_jax.evaluation.programs import Programs
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.inference.trained_model import load, save_folder
from sslssaw_jax.stages.gloss2text import embed_glosses
from sslssaw_jax.stages.stage import RANK_WEIGHT, WORD_THRESHOLD
from sslssaw_jax.systems import csgcr, read_config
from sslssaw_jax.training.checkpoints import CheckpointError
from sslssaw_jax.training.stage_folders import plan_stages
from sslssaw_jax.weights.initial_state import variables
from sslssaw_jax.workdir import CHECKPOINTS, read_scores
from tests.support.annotations import phoenix_texts, requires_phoenix
from tests.support.toy import evaluated, make_stages, toy_state, toy_system, translate_stage


@pytest.fixture(scope="module")
def model():
    stage = translate_stage(toy_system("csgcr"))
    return evaluated(stage, toy_state(stage, seed=2))


def test_a_bag_loses_and_gains_words_in_another_order_at_each_step():
    present = np.zeros((400, 50), bool)
    present[:, 2:22] = True
    bags = np.asarray(csgcr.noisy_order(jnp.asarray(present), jax.random.key(0)))
    kept, added = (bags[:, 2:22] > 0).sum(axis=1), (bags[:, 22:] > 0).sum(axis=1)
    assert 0.85 < kept.mean() / 20 < 0.9, "an eighth is left out on average, 5 to 20 % of each clip"
    assert pytest.approx(added.mean(), rel=0.15) == 20 * 0.125 * 28 / 50
    assert not bags[:, :2].any(), "blank and <unk> are no words"
    assert len({tuple(np.argsort(row)) for row in bags}) == 400
    np.testing.assert_array_equal(csgcr.noisy_order(jnp.asarray(present), None), present)
    np.testing.assert_array_equal(csgcr.noisy_order(jnp.asarray(present), jax.random.key(0)), bags)


def test_a_rare_word_weighs_more_and_the_loss_is_that_of_the_words_alone():
    weights = csgcr.positive_weights([[2, 3], [2], [2]], num_clips=99, num_words=5)
    np.testing.assert_array_equal(weights[2:], [20, 20, 20])
    common = csgcr.positive_weights([[2]] * 49, num_clips=99, num_words=4)
    np.testing.assert_allclose(common, [20, 20, 51 / 50, 20], rtol=1e-6)
    logits, present = np.array([[0.0, 2.0], [1.0, 1.0]]), np.array([[True, False], [True, True]])
    loss = csgcr.existence_loss(
        jnp.asarray(logits), jnp.asarray(present), np.array([3.0, 1.0]), jnp.array([True, False]), 1
    )
    np.testing.assert_allclose(loss, (3 * np.log(2) + np.log1p(np.exp(2))) / 2, rtol=1e-6)


def test_a_word_is_as_sure_as_at_its_surest_position_and_padding_shows_none(model):
    video = np.random.default_rng(0).normal(size=(1, 4, 16)).astype(np.float32)
    video[:, 3] *= 100
    at_each = [np.asarray(model.words(video[:, [place]], np.ones((1, 1), bool))) for place in range(4)]
    found = np.asarray(model.words(video, np.arange(4)[None] < 3)[0])
    np.testing.assert_allclose(found, np.max(at_each[:3], axis=0)[0], rtol=1e-5)
    assert not np.allclose(found, np.max(at_each, axis=0)[0])
    assert (found[:2] == csgcr.NO_WORD).all(), "blank and <unk> are no words"
    assert len({float(each[0, 2:].max()) for each in at_each}) == 4


@pytest.mark.slow
def test_words_above_the_threshold_are_read_surest_first_and_none_is_a_bag_too(model):
    read, words = [], model.words

    def spy(order, valid, rngs):
        read.append(np.asarray(order))
        return type(model).read_bag(model, order, valid, rngs)

    video, mask = jnp.ones((2, 3, 16)), jnp.ones((2, 3), bool)
    logits = jnp.array([[-1e9, -1e9, 3.0, 1.9, 2.1, -4.0], [-1e9, -1e9, 1.0, 1.0, 1.0, 1.0]])
    model.words, model.read_bag = lambda *_: logits, spy
    try:
        states, bag_mask = model.found_bag(video, mask, jnp.ones(2, bool))
    finally:
        model.words, model.read_bag = words, type(model).read_bag.__get__(model)
    assert [np.flatnonzero(row).tolist() for row in read[0]] == [[2, 4], []]  # toy thresholds are 2
    assert read[0][0, 2] > read[0][0, 4]
    assert np.asarray(bag_mask.sum(axis=1)).tolist() == [4, 2], "words, </s> and language"
    assert np.isfinite(states).all()


def test_a_rank_is_the_cosine_and_the_weighted_score(model):
    """Towers by hand: the feature of a sentence is its first token's, of a video (1, 0)."""
    features = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    text = np.array([[[0, 9], [1, 9], [2, 9]]])
    model.read = lambda tokens, mask: jnp.asarray(features)[tokens]
    model.text_features = lambda states, mask: (states[:, :1], mask)
    try:
        rank = model.rank(
            jnp.array([[5.0, 0.0]]), text, np.ones_like(text, bool), jnp.array([[-3.0, -0.1, -1.0]])
        )
    finally:
        del model.read, model.text_features
    np.testing.assert_allclose(rank, [[1 - 6.0, -0.2, 2**-0.5 - 2.0]], rtol=1e-5)  # toy weights are 2


@requires_phoenix
def test_each_sentence_of_phoenix_has_room_for_its_words():
    room = min(
        csgcr.CSGCRConfig().bag_size, *(each["csgcr"]["data.max_glosses"] for each in (SMALL, PUBLISHED))
    )
    train = [ClipInfo("a", 0, "", target, "", "") for target in phoenix_texts("train")[0]]
    words = WordVocabulary.of(texts := WordVocabulary.texts(train))
    assert 1_000 < words.size < 2_000 and 40 < max(len(words.encode(text)) for text in texts) <= room
    assert room <= csgcr.CSGCRConfig().bag_size


def configuration(data_dir: Path):
    tree = to_config_dict(toy_system("csgcr"))
    tree.data.update({"data_dir": str(data_dir), "max_frames": 32, "num_threads": 1})
    tree.decode.update({"beams": 3, "max_new_tokens": 8})
    tree.evaluation.num_heatmaps = 0
    tree.translate.update({"epochs": 1, "clips_per_batch": 8, "frame_budget": 160})
    return read_config(tree)


def test_a_word_and_the_ending_start_as_the_embeddings_of_their_pieces(tiny_data_dir, tmp_path):
    run = Experiment(configuration(tiny_data_dir), tmp_path / "run")
    fresh = toy_state(run._stages[0], seed=1)
    found, tokenizer = variables(run._initial_weights(0)(fresh)), run._data.tokenizer
    table = np.asarray(found.pop(("embedding", "embed", "embedding")))
    words = embed_glosses(run._data.glosses.glosses, table, tokenizer)
    np.testing.assert_array_equal(found.pop(("word_embedding", "embedding")), words)
    np.testing.assert_array_equal(found.pop(("ending",)), table[[tokenizer.eos_id, tokenizer.language_id]])
    assert all(value is variables(fresh)[path] for path, value in found.items())


@pytest.mark.slow
def test_what_is_chosen_on_dev_is_kept_with_the_checkpoint_whenever_a_run_is_interrupted(
    tiny_data_dir, tmp_path, monkeypatch
):
    config, run = configuration(tiny_data_dir), tmp_path / "run"

    def interrupted(self, state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Programs, "dev_scores", interrupted)
        Experiment(config, run).run("train")
    assert not read_scores(run / CHECKPOINTS), "saved and not yet scored"
    for use in (partial(load, run), partial(Experiment(config, run).run, "eval")):
        with pytest.raises(CheckpointError, match="has not been scored on dev yet, where the threshold"):
            use()
    Experiment(config, run).run("train")
    (scores,) = read_scores(run / CHECKPOINTS).values()
    assert scores["word_f1"] > 0 and scores[WORD_THRESHOLD] != 0 and scores[RANK_WEIGHT] in WEIGHTS
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["dev"]["rouge_l"] == pytest.approx(scores["rouge_l"])
    save_folder(load(run), tmp_path / "saved")
    for folder in (run, tmp_path / "saved"):
        model = load(folder)
        assert isinstance(model.glosses, WordVocabulary) and (folder / "words.json").exists()
        for name in (WORD_THRESHOLD, RANK_WEIGHT):
            assert model.state.batch_stats[name][...] == np.float32(scores[name])


def test_stage_1_comes_before_if_it_has_epochs(tmp_path):
    tree = to_config_dict(toy_system("csgcr"))
    tree.pretrain.epochs = tree.warm_start.epochs = 1
    names = ["warm_start", "pretrain", "translate"]
    stages = plan_stages(read_config(tree), tmp_path / "run")
    assert [stage.name for stage, _ in stages] == names
    towers, model = (stage.abstract_state() for stage in make_stages(read_config(tree))[1:])
    assert set(stages[-1][0].modules) == {path[0] for path in variables(towers)}
    assert {path[0] for path in variables(model)} - set(stages[-1][0].modules) == {
        *("word_head", "word_embedding", "ending", WORD_THRESHOLD, RANK_WEIGHT)
    }
    tree.stage = "pretrain"
    assert [stage.name for stage, _ in plan_stages(read_config(tree), tmp_path / "run")] == names[:2]
