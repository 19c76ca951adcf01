import math
import random
from statistics import NormalDist, fmean, stdev

import pytest

from sslssaw_jax.evaluation.metrics import raw_bleu, rouge_l, score
from sslssaw_jax.evaluation.significance import compare, confidence_interval, paired_bootstrap

WORDS = [f"word{number}" for number in range(50)]


def texts(clips: int) -> list[str]:
    rng = random.Random(clips)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(clips)]


def spoiled(targets: list[str], share: float, seed: int) -> list[str]:
    """The targets with a share of their words replaced at random."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(WORDS) if rng.random() < share else word for word in target.split())
        for target in targets
    ]


TARGETS = texts(120)
GOOD, AS_GOOD, BAD = (spoiled(TARGETS, share, seed) for seed, share in enumerate((0.2, 0.2, 0.4)))


def test_the_interval_is_that_of_sacrebleu_for_the_score_that_is_reported():
    theirs = raw_bleu(4).corpus_score(GOOD, [TARGETS], n_bootstrap=1000)
    assert theirs.score == score(GOOD, TARGETS)["bleu4"]
    low, high = confidence_interval(GOOD, TARGETS)["bleu4"]
    assert (low, high) == pytest.approx((theirs._mean - theirs._ci, theirs._mean + theirs._ci), abs=1e-5)
    assert low < theirs.score < high


def test_rouge_l_is_resampled_as_it_is_reported():
    low, high = confidence_interval(GOOD, TARGETS)["rouge_l"]
    assert low < score(GOOD, TARGETS)["rouge_l"] < high
    alike = [target.split()[0] + " nothing else" for target in ["a b c d", "e f g h"] * 9]
    reported = score(alike, ["a b c d", "e f g h"] * 9)["rouge_l"]
    interval = confidence_interval(alike, ["a b c d", "e f g h"] * 9)["rouge_l"]
    assert interval == pytest.approx((reported, reported), abs=1e-4)  # sacrebleu sums in float32


@pytest.mark.parametrize("seed", range(4))
def test_p_is_that_of_a_two_sided_test_of_the_paired_differences(seed):
    """By the central limit theorem: a mean over clips is ROUGE-L."""
    system = spoiled(TARGETS, 0.22, 10 + seed)
    words = [[text.split() for text in texts] for texts in (system, GOOD, TARGETS)]
    gains = [rouge_l(one, target) - rouge_l(other, target) for one, other, target in zip(*words)]
    normal = NormalDist(0, stdev(gains) / math.sqrt(len(gains)))
    expected = 2 * normal.cdf(-abs(fmean(gains)))
    assert 0.01 < expected < 0.99
    assert compare(system, GOOD, TARGETS)["rouge_l"] == pytest.approx(expected, abs=0.05)


def test_more_clips_give_a_narrower_interval():
    few, many = (
        confidence_interval(spoiled(targets, 0.2, 7), targets) for targets in (TARGETS[:30], texts(300))
    )
    for metric in ("bleu4", "rouge_l"):
        assert many[metric][1] - many[metric][0] < few[metric][1] - few[metric][0]


def test_a_worse_system_is_told_from_one_that_is_as_good():
    _, as_good, bad = paired_bootstrap(GOOD, [AS_GOOD, BAD], TARGETS)
    for metric in ("bleu4", "rouge_l"):
        assert bad[metric].p_value < 0.01 < 0.05 < as_good[metric].p_value < 1
        assert bad[metric].high < as_good[metric].low
    assert compare(BAD, GOOD, TARGETS) == {metric: each.p_value for metric, each in bad.items()}


@pytest.mark.parametrize("system", [GOOD, ["nothing"] * 120], ids=["itself", "another with the same score"])
def test_no_difference_has_the_p_value_1(system):
    baseline = GOOD if system is GOOD else ["anything"] * 120
    assert compare(system, baseline, TARGETS) == {"bleu4": 1.0, "rouge_l": 1.0}


def test_clips_that_are_drawn_together_are_no_more_than_one():
    groups = [f"pair{place % 60}" for place in range(120)]  # the same 60 clips twice
    twice = [*GOOD[:60], *GOOD[:60]], [*TARGETS[:60], *TARGETS[:60]]
    once = confidence_interval(GOOD[:60], TARGETS[:60])
    together = confidence_interval(*twice, groups=groups)
    for metric, (low, high) in confidence_interval(*twice).items():
        assert together[metric][1] - together[metric][0] > 1.2 * (high - low)
        assert together[metric][1] - together[metric][0] == pytest.approx(
            once[metric][1] - once[metric][0], rel=0.2
        )


def test_the_environment_chooses_the_resamples(monkeypatch):
    fixed = confidence_interval(GOOD, TARGETS)
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    assert confidence_interval(GOOD, TARGETS) == confidence_interval(GOOD, TARGETS) != fixed
    monkeypatch.setenv("SACREBLEU_SEED", "none")  # sacrebleu's word for another choice each time
    assert confidence_interval(GOOD, TARGETS) != confidence_interval(GOOD, TARGETS)


def test_a_single_clip_proves_nothing():
    assert compare(TARGETS[:1], BAD[:1], TARGETS[:1]) == {"bleu4": 1.0, "rouge_l": 1.0}


def test_characters_are_counted_whatever_the_spaces():
    apart = [" ".join(text.replace(" ", "")) for text in GOOD]
    assert confidence_interval(apart, TARGETS, characters=True) == confidence_interval(
        GOOD, TARGETS, characters=True
    )
    assert confidence_interval(apart, TARGETS) != confidence_interval(GOOD, TARGETS)


def test_translations_of_other_clips_are_refused():
    with pytest.raises(ValueError, match=r"120, 119 translations for 120 targets"):
        paired_bootstrap(GOOD, [BAD[1:]], TARGETS)
    with pytest.raises(ValueError, match="for 0 targets"):
        confidence_interval([], [])
