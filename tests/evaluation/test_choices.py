from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.evaluation.choices import Chooser, best_threshold, best_weight
from sslssaw_jax.evaluation.predictions import Found, Sentence
from sslssaw_jax.stages.stage import RANK_WEIGHT, WORD_THRESHOLD
from sslssaw_jax.types import TrainState


def test_a_threshold_has_the_best_f1_of_all():
    logits = np.array([[2.0, -1.0, 0.5], [1.0, -2.0, -3.0]])
    present = np.array([[True, False, True], [False, True, False]])
    # taken: 2.0 (hit), 1.0 (miss), 0.5 (hit), -1.0 (miss), -2.0 (hit)
    # F1:    2/4,       2/5,        4/6,       4/7,         6/8
    assert best_threshold(logits, present) == (-2.5, pytest.approx(75.0))
    rng = np.random.default_rng(0)
    logits, present = rng.normal(size=(30, 8)).round(1), rng.random((30, 8)) < 0.3
    threshold, f1 = best_threshold(logits, present)

    def f1_of(least: float) -> float:
        taken = logits >= least
        return 200 * (taken & present).sum() / (taken.sum() + present.sum())

    assert f1 == pytest.approx(f1_of(threshold))
    assert f1 == pytest.approx(max(map(f1_of, np.unique(logits))))


def test_words_of_one_logit_are_taken_together():
    threshold, f1 = best_threshold(np.array([[1.0, 1.0, 0.0]]), np.array([[True, False, False]]))
    assert (threshold, f1) == (0.5, pytest.approx(200 / 3))


def test_the_weight_is_chosen_among_ranks_that_are_cosines_of_sentences_of_the_chosen_words():
    """Whatever the weight and the threshold of the state before."""
    right, wrong = "on sunday cold snow will come", "on monday warm wind will come"
    sentences = [Sentence(wrong, -2.0), Sentence(right, -1.0)]  # right with a weight above 0.2
    thresholds = []

    def search(state, *_, **__):
        threshold, weight = (float(state.batch_stats[name][...]) for name in (WORD_THRESHOLD, RANK_WEIGHT))
        thresholds.append(threshold)
        ranks = [cosine + weight * one.score for cosine, one in zip((0.9, 0.7), sentences)]
        return {0: Found(sentences, None, ranks)}

    batch = SimpleNamespace(gloss=np.array([[2]]), gloss_mask=np.array([[True]]), valid=np.array([True]))
    runner = SimpleNamespace(
        stage=SimpleNamespace(existence=True),
        glosses=None,
        compile=lambda *_, **__: None,
        over=lambda *_, **__: [(batch, np.array([[-9.0, -9.0, 3.0, 1.0]]))],
    )
    dev = SimpleNamespace(split="dev", clips=[SimpleNamespace(target=right)])
    before = nnx.State({name: nnx.BatchStat(jnp.float32(5.0)) for name in (WORD_THRESHOLD, RANK_WEIGHT)})
    state, chosen = Chooser(runner, SimpleNamespace(search=search))(TrainState(0, None, before, ()), dev)
    assert thresholds == [2.0]
    assert chosen == {WORD_THRESHOLD: 2.0, RANK_WEIGHT: 0.3, "word_f1": pytest.approx(100.0)}
    assert [float(state.batch_stats[name][...]) for name in chosen if name != "word_f1"] == [
        2.0,
        np.float32(0.3),
    ]


def test_a_weight_has_the_best_bleu_and_of_equals_is_the_smallest():
    def found(*pairs: tuple[str, float, float]) -> Found:
        sentences = [Sentence(text, score) for text, score, _ in pairs]
        return Found(sentences, None, [cosine for *_, cosine in pairs])

    right, wrong = "on sunday cold snow will come", "on monday warm wind will come"
    # the cosine is wrong by 0.2, the score right by 1: weights above 0.2 are right
    by_score = found((wrong, -2.0, 0.9), (right, -1.0, 0.7))
    assert best_weight([by_score], [right]) == 0.3
    # the cosine is right by 0.2, the score wrong by 1
    by_cosine = found((wrong, -1.0, 0.5), (right, -2.0, 0.7))
    assert best_weight([by_cosine], [right]) == 0.0
    # right by the score alone, wrong with a weight of 1 or more by the other clip
    both = [by_score, found((wrong, -1.0, 0.1), (right, -2.0, 0.7))]
    assert best_weight(both, [right, right]) == 0.3
