import math
import random

import pytest

from sslssaw_jax.evaluation.metrics import overlap, score


def test_a_perfect_translation_scores_100_and_an_empty_one_0():
    targets = ["am tag regen im norden .", "in der nacht bleibt es klar .", "heiter ."]
    perfect, empty = score(targets, targets), score(["", "", ""], targets)
    for key in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "chrf", "sacrebleu"):
        assert perfect[key] == pytest.approx(100), key
        assert empty[key] == 0, key


def test_a_final_period_is_a_word_more_on_both_sides():
    with_period = score(["a b x c"], ["a b c d e"], period=True)
    assert with_period == score(["a b x c ."], ["a b c d e ."])
    assert with_period["bleu1"] == pytest.approx(100 * 0.81873075 * 4 / 5)  # 5 words instead of 6
    assert score(["天氣"], ["天氣"], characters=True, period=True)["bleu1"] == pytest.approx(100)


def test_bleu_is_that_of_the_definition_with_its_brevity_penalty():
    # 3 of 4 words, 1 of 3 pairs of words; 4 words instead of 5: exp(1 - 5/4)
    scores = score(["a b x c"], ["a b c d e"])
    assert scores["bleu1"] == pytest.approx(100 * 0.77880078 * 3 / 4)
    assert scores["bleu2"] == pytest.approx(100 * 0.77880078 * (3 / 4 * 1 / 3) ** 0.5)
    assert scores["bleu3"] == scores["bleu4"] == 0  # no smoothing


def test_the_reference_is_the_reference_for_chrf_and_sacrebleu_too():
    short, long = "am tag regen im norden", "am tag regen im norden und auf den bergen"
    # sacreBLEU: all words are right, 5 instead of 9; chrF: what is missing counts more than what is too much
    too_short, too_long = score([short], [long]), score([long], [short])
    assert too_short["sacrebleu"] == pytest.approx(100 * math.exp(1 - 9 / 5))
    assert too_short["chrf"] < too_long["chrf"] < 100


def test_rouge_l_is_that_of_the_definition():
    # longest common subsequence "a c d": precision 3/4, recall 3/5
    expected = (1 + 1.44) * 0.75 * 0.6 / (0.6 + 1.44 * 0.75)
    assert score(["a x c d"], ["a b c d e"])["rouge_l"] == pytest.approx(100 * expected)
    both = score(["a x c d", ""], ["a b c d e", "f"])  # the mean over sentences
    assert both["rouge_l"] == pytest.approx(50 * expected)


def test_rouge_l_finds_the_longest_subsequence_that_search_finds():
    rng = random.Random(0)
    for _ in range(50):
        a, b = ([rng.choice("abc") for _ in range(rng.randint(1, 7))] for _ in range(2))
        subsequences = [[a[i] for i in range(len(a)) if bits >> i & 1] for bits in range(2 ** len(a))]
        longest = max(len(s) for s in subsequences if _is_subsequence(s, b))
        precision, recall = longest / len(a), longest / len(b)
        expected = 2.44 * precision * recall / (recall + 1.44 * precision) if longest else 0.0
        assert score([" ".join(a)], [" ".join(b)])["rouge_l"] == pytest.approx(100 * expected)


def _is_subsequence(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return all(item in rest for item in short)


def test_spaces_and_width_do_not_matter_where_characters_count():
    spaced, joined = ["他 今 年 四 岁 , 6 张 ?"], ["他今年四岁，６张？"]
    scores = score(spaced, joined, characters=True)
    for key in ("bleu4", "rouge_l", "chrf", "sacrebleu"):
        assert scores[key] == pytest.approx(100), key
    assert overlap(spaced[0], joined[0], characters=True) == 1
    joined = ["他今年四岁。"]
    assert score(["他今年五岁。"], joined, characters=True)["bleu1"] == pytest.approx(100 * 5 / 6)
    assert score(["他今年五岁。"], joined)["bleu1"] == 0  # one word


def test_overlap_counts_distinct_words_of_the_target_case_aside():
    assert overlap("Regnet es im Norden", "im norden im süden schnee") == 2 / 4
    assert overlap("", "regen") == overlap("Regen", "") == 0


@pytest.mark.parametrize(("predictions", "targets"), [([], []), (["a"], ["a", "b"])])
def test_predictions_that_do_not_match_the_targets_are_an_error(predictions, targets):
    with pytest.raises(ValueError, match="one is needed for each"):
        score(predictions, targets)
