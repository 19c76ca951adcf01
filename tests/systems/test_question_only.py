import numpy as np
import pytest

from sslssaw_jax.data.clips import ClipInfo, whole_clips
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.systems import question_only
from sslssaw_jax.systems.question_only import TargetNoise, ask_noisy_targets
from tests.support.toy import VOCAB_SIZE, toy_system

TARGETS = [
    f"im {place} {verb} es {when}"
    for place in ("norden", "süden", "westen")
    for verb in ("regnet", "schneit")
    for when in ("heute", "morgen")
] * 4
QUESTIONS = ["regnet es im norden", "schneit es im süden", "wann regnet es", "im norden wann"] * 4


@pytest.fixture
def noise():
    return TargetNoise(TARGETS, QUESTIONS)


def copies(noise, target, count=200):
    return [noise(target, np.random.default_rng(seed)) for seed in range(count)]


def test_verbs_and_question_words_open_questions_and_articles_do_not(noise):
    assert noise.openings == {"regnet", "schneit", "wann"}


def test_a_copy_holds_words_of_the_target_and_openings_only(noise):
    target = TARGETS[0]
    allowed = set(target.split()) | noise.openings
    for copy in copies(noise, target):
        assert copy
        assert set(copy.split()) <= allowed


def test_copies_differ_and_most_of_them_begin_with_the_verb(noise):
    found = copies(noise, TARGETS[0])
    assert len(set(found)) > 10
    assert 0.5 < np.mean([copy.startswith("regnet") for copy in found]) < 0.8
    assert 0.05 < np.mean([copy == TARGETS[0] for copy in found]) < 0.25


def test_a_copy_follows_from_its_random_numbers(noise):
    assert copies(noise, TARGETS[0]) == copies(TargetNoise(TARGETS, QUESTIONS), TARGETS[0])


@pytest.mark.parametrize("target", ["", "regnet", "morgen"])
def test_the_shortest_targets_survive(noise, target):
    for copy in copies(noise, target, 30):
        assert set(copy.split()) <= set(target.split()) | noise.openings
        assert bool(copy) >= bool(target)


def test_questions_without_openings_leave_the_order_or_shuffle_it():
    noise = TargetNoise(["a b c d"], ["x", ""])
    found = copies(noise, "a b c d")
    assert all(set(copy.split()) <= set("abcd") for copy in found) and all(found)
    assert 0.6 < np.mean([copy == "a b c d" for copy in found]) < 0.8
    assert len(set(found)) > 10


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_share_of_the_clips_is_asked_a_noisy_target(share):
    clips = [ClipInfo(str(i), 0, QUESTIONS[i % 4], target, "", "") for i, target in enumerate(TARGETS)]
    ask = ask_noisy_targets(clips, share)
    asked = [ask(clips[0], np.random.default_rng(seed)) for seed in range(300)]
    own = np.mean([question == clips[0].question for question in asked])
    assert abs(own - (1 - share)) < 0.1
    assert all(set(question.split()) <= set((TARGETS[0] + " wann schneit").split()) for question in asked)


def test_noise_is_made_of_no_question_of_a_clip_that_is_text_alone(monkeypatch):
    clips = [ClipInfo(str(number), 0, "wann", "heute", "", "") for number in range(16)]
    config, read = toy_system("question_only", **{"data.text_only": 0.75}), []
    monkeypatch.setattr(
        question_only, "ask_noisy_targets", lambda known, share: read.extend(known) or (lambda *clip: "")
    )
    (stage,) = question_only.make_stages(config, StageInputs(VOCAB_SIZE, clips=lambda split: clips))
    stage.ask(clips[0], np.random.default_rng(0))
    assert [int(clip.id) for clip in read] == whole_clips(16, config.data, config.seed)
    assert len(read) == 4
