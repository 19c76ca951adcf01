import pytest

from sslssaw_jax.evaluation.leakage import (
    evaluate,
    is_overlap_free,
    overlap_parts,
    question_baselines,
    swapped_questions,
)
from sslssaw_jax.evaluation.metrics import score
from tests.support.annotations import csl_texts, phoenix_texts, requires_csl, requires_phoenix


@requires_phoenix
@pytest.mark.parametrize(
    ("split", "name", "expected"),
    [
        (
            "test",
            "copy_question",
            {"bleu1": 57.4, "bleu2": 46.3, "bleu3": 38.2, "bleu4": 32.4, "rouge_l": 53.7},
        ),
        ("test", "edited_question", {"bleu4": 35.49, "rouge_l": 56.11}),
        ("dev", "copy_question", {"bleu4": 11.6}),
        ("dev", "edited_question", {"bleu4": 13.9}),
    ],
)
def test_what_is_made_of_the_question_scores_what_is_known_of_phoenix(split, name, expected):
    targets, questions = phoenix_texts(split)
    made = question_baselines(questions, targets, "de_DE")[name]
    found = score(made, targets)
    assert found["num_clips"] == {"dev": 519, "test": 642}[split]
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=0.05), key


def test_clips_without_questions_have_no_copied_question():
    assert question_baselines(["", ""], ["a", "b"], "de_DE") == {}
    assert question_baselines(["", "Wo?"], ["a", "b"], "zh_CN") == {"copy_question": ["", "wo?"]}
    scores = evaluate(["am tag", "im norden"], ["am tag", "im süden"], ["", ""], {})
    assert scores["baselines"] == {} and scores["num_clips"] == 2


def test_a_literal_copy_scores_no_higher_than_copy_question_where_targets_have_capitals():
    questions = ["Will Anna come to Bonn today?", "Does it rain?"]
    targets = ["Anna will come to Bonn today?", "it rains"]
    found = evaluate(questions, targets, questions, question_baselines(questions, targets, "de_DE"))
    assert found["baselines"].keys() == {"copy_question"}  # the rules for German write lower case
    assert found["bleu4"] == found["baselines"]["copy_question"]["bleu4"] > 0


@requires_phoenix
def test_copying_the_question_scores_higher_the_more_the_question_gives_away():
    targets, questions = phoenix_texts("test")
    copied = question_baselines(questions, targets, "de_DE")
    scores = evaluate(copied["copy_question"], targets, questions, copied)
    buckets = [bucket["bleu4"] for bucket in scores["overlap_buckets"].values()]
    assert [scores["overlap_free"]["bleu4"], *buckets] == sorted([0.0, *buckets])
    assert sum(bucket["num_clips"] for bucket in scores["overlap_buckets"].values()) == 642
    assert scores["overlap_free"]["num_clips"] == 60
    low, high = scores["intervals"]["bleu4"]
    assert low < scores["bleu4"] < high
    p_values = {name: each["p_value"]["bleu4"] for name, each in scores["baselines"].items()}
    assert p_values["copy_question"] == 1 and p_values["edited_question"] < 0.01


@pytest.mark.slow
@requires_csl
def test_copying_the_question_scores_what_is_known_of_csl_daily_in_characters():
    """All characters count, including punctuation; without it, the scores would be 37.8 and 57.4."""
    targets, questions = csl_texts("test")
    copied = question_baselines(questions, targets, "zh_CN")
    assert copied.keys() == {"copy_question"}
    found = score(copied["copy_question"], targets, characters=True)
    assert found["bleu4"] == pytest.approx(34.8, abs=0.15)
    assert found["rouge_l"] == pytest.approx(53.3, abs=0.15)
    assert "tok:zh" in found["sacrebleu_signature"]
    others = overlap_parts(targets, questions, characters=True)["without_copies"]
    assert len(others) == 1176 - 95
    without = score([questions[i] for i in others], [targets[i] for i in others], characters=True)
    assert without["bleu4"] < found["bleu4"] - 5


def test_each_clip_falls_into_the_bucket_of_its_overlap():
    targets = ["a b c d"] * 5
    questions = ["", "a", "a b", "a b c", "A b c d"]
    scores = evaluate(["a b c d", "", "", "", "a b c d"], targets, questions, {})
    counts = {name: bucket["num_clips"] for name, bucket in scores["overlap_buckets"].items()}
    assert counts == {"0.00-0.25": 1, "0.25-0.50": 1, "0.50-0.75": 1, "0.75-1.00": 2}
    assert scores["overlap_buckets"]["0.00-0.25"]["bleu4"] == pytest.approx(100)
    assert scores["overlap_buckets"]["0.75-1.00"]["rouge_l"] == pytest.approx(50)


def test_clips_whose_question_is_the_target_are_scored_apart():
    scores = evaluate(["a b", "x", "y"], ["a b", "c d", "e"], ["A  b", "c", ""], {})
    assert scores["without_copies"] == {"bleu4": 0, "rouge_l": 0, "num_clips": 2}
    assert evaluate(["a"], ["a"], ["A"], {})["without_copies"]["bleu4"] is None


@pytest.mark.parametrize(
    ("question", "target", "free"),
    [
        ("kommt Im Norden regen", "im norden schnee", False),
        ("norden im regen", "im norden schnee", True),
        ("", "im norden", True),
        ("kommt Regen", "regen", False),
        ("kommt schnee", "regen", True),
        ("was", "", True),
    ],
)
def test_overlap_free_is_a_question_that_holds_no_two_words_of_the_target_in_a_row(question, target, free):
    assert is_overlap_free(question, target) is free


def test_the_overlap_free_clips_are_scored_alone_and_with_their_intervals():
    targets = ["a b c d", "e f g h", "i j k l"]
    scores = evaluate([*targets[:2], "x"], targets, ["b a", "c e", "i j"], {})
    assert overlap_parts(targets, ["b a", "c e", "i j"])["overlap_free"] == [0, 1]
    free = scores["overlap_free"]
    assert (free["num_clips"], free["bleu4"]) == (2, pytest.approx(100))
    assert free["intervals"]["rouge_l"] == pytest.approx((100, 100), abs=1e-3)
    assert "intervals" not in evaluate(["a b"], ["a b"], ["a b"], {})["overlap_free"]


def test_each_clip_gets_another_clips_question_and_the_same_one_each_time():
    questions = [f"question {number}" for number in range(50)]
    shuffled = swapped_questions(questions)["shuffled"]
    assert sorted(shuffled) == sorted(questions)
    assert not any(given == own for given, own in zip(shuffled, questions))
    assert shuffled == swapped_questions(questions)["shuffled"]
    assert sorted(swapped_questions(["a", "b"])["shuffled"]) == ["a", "b"]


def test_there_is_nothing_to_shuffle_of_one_question_and_nothing_to_swap_of_none():
    assert swapped_questions(["a"]) == {"blanked": [""]}
    assert swapped_questions(["", ""]) == swapped_questions([]) == {}


def test_a_missing_question_is_an_error():
    with pytest.raises(ValueError, match="0 questions for 1 targets"):
        evaluate(["a"], ["a"], [], {})
