import random

import pytest

from sslssaw_jax.metrics import evaluate, format_table, overlap, score
from tests.annotations import ANNOTATIONS, requires_csl, requires_phoenix
from tfds_builders.csl_daily_qa.annotations import read_questions


def read_phoenix(split: str) -> tuple[list[str], list[str]]:
    """Targets and questions of the real question file of a split."""
    text = (ANNOTATIONS / "phoenix2014t_qa" / f"{split}.txt").read_text(encoding="utf-8")
    fields = [line.split(" ", 1)[1].split("%") for line in text.split("\n") if line]
    return [field[0] for field in fields], [field[1] for field in fields]


@requires_phoenix
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("test", {"bleu1": 57.4, "bleu2": 46.3, "bleu3": 38.2, "bleu4": 32.4, "rouge_l": 53.7}),
        ("dev", {"bleu4": 11.6}),
    ],
)
def test_copying_the_question_scores_what_is_known_of_phoenix(split, expected):
    targets, questions = read_phoenix(split)
    baseline = evaluate([""] * len(targets), targets, questions)["baselines"]["copy_question"]
    assert baseline["num_clips"] == {"dev": 519, "test": 642}[split]
    for key, value in expected.items():
        assert baseline[key] == pytest.approx(value, abs=0.15), key


@requires_phoenix
def test_copying_the_question_scores_higher_the_more_the_question_gives_away():
    targets, questions = read_phoenix("test")
    buckets = evaluate([q.lower() for q in questions], targets, questions)["overlap_buckets"]
    scores = [bucket["bleu4"] for bucket in buckets.values()]
    assert scores == sorted(scores)
    assert sum(bucket["num_clips"] for bucket in buckets.values()) == 642


@requires_csl
def test_copying_the_question_scores_what_is_known_of_csl_daily_in_characters():
    """All characters count, marks too; without the marks it would be 37.8 and 57.4."""
    problems: list[str] = []
    rows = read_questions(ANNOTATIONS / "csl_daily_qa" / "test.txt", "test", {}, problems).values()
    assert len(rows) == 1176 and not problems
    targets, questions = [row.target for row in rows], [row.question for row in rows]
    scores = evaluate(questions, targets, questions, characters=True)
    baseline = scores["baselines"]["copy_question"]
    assert baseline["bleu4"] == pytest.approx(34.8, abs=0.15)
    assert baseline["rouge_l"] == pytest.approx(53.3, abs=0.15)
    assert "tok:zh" in baseline["sacrebleu_signature"]
    assert scores["without_copies"]["num_clips"] == 1176 - 95
    assert scores["without_copies"]["bleu4"] < baseline["bleu4"] - 5


def test_a_perfect_translation_scores_100_and_an_empty_one_0():
    targets = ["am tag regen im norden .", "in der nacht bleibt es klar .", "heiter ."]
    perfect, empty = score(targets, targets), score(["", "", ""], targets)
    for key in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "chrf", "sacrebleu"):
        assert perfect[key] == pytest.approx(100), key
        assert empty[key] == 0, key


def test_bleu_is_that_of_the_definition_with_its_brevity_penalty():
    # 3 of 4 words, 1 of 3 pairs of words; 4 words where 5 are wanted: exp(1 - 5/4)
    scores = score(["a b x c"], ["a b c d e"])
    assert scores["bleu1"] == pytest.approx(100 * 0.77880078 * 3 / 4)
    assert scores["bleu2"] == pytest.approx(100 * 0.77880078 * (3 / 4 * 1 / 3) ** 0.5)
    assert scores["bleu3"] == scores["bleu4"] == 0  # no smoothing


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


def test_each_clip_falls_into_the_bucket_of_its_overlap():
    targets = ["a b c d"] * 5
    questions = ["", "a", "a b", "a b c", "A b c d"]
    scores = evaluate(["a b c d", "", "", "", "a b c d"], targets, questions)
    counts = {name: bucket["num_clips"] for name, bucket in scores["overlap_buckets"].items()}
    assert counts == {"0.00-0.25": 1, "0.25-0.50": 1, "0.50-0.75": 1, "0.75-1.00": 2}
    assert scores["overlap_buckets"]["0.00-0.25"]["bleu4"] == pytest.approx(100)
    assert scores["overlap_buckets"]["0.75-1.00"]["rouge_l"] == pytest.approx(50)


def test_clips_whose_question_is_the_target_are_scored_apart():
    scores = evaluate(["a b", "x", "y"], ["a b", "c d", "e"], ["A  b", "c", ""])
    assert scores["without_copies"] == {"bleu4": 0, "rouge_l": 0, "num_clips": 2}
    assert evaluate(["a"], ["a"], ["A"])["without_copies"]["bleu4"] is None


def test_the_table_shows_every_score_of_every_split_and_no_score_of_an_empty_bucket():
    targets, questions = ["regen im norden", "schnee im süden"], ["Im Norden", "wo"]
    metrics = {
        "dev": evaluate(["regen im norden", "regen"], targets, questions),
        "test": evaluate(targets, targets, questions),
    }
    lines = format_table(metrics).splitlines()
    assert (
        " ".join(lines[0].split()) == "split system BLEU-1 BLEU-2 BLEU-3 BLEU-4 ROUGE-L chrF sacreBLEU clips"
    )
    dev, copy = lines[2].split(), lines[8].split()
    assert dev[:4] == ["dev", "this", "run", f"{metrics['dev']['bleu1']:.2f}"]
    assert dev[-1] == "2"
    assert copy[:2] == ["copy-question", f"{metrics['dev']['baselines']['copy_question']['bleu1']:.2f}"]
    assert next(line for line in lines if "0.25-0.50" in line).split() == ["overlap", "0.25-0.50", "0"]
    assert next(line for line in lines if line.startswith("test")).split()[3] == "100.00"


@pytest.mark.parametrize(("predictions", "targets"), [([], []), (["a"], ["a", "b"])])
def test_predictions_that_do_not_match_the_targets_are_an_error(predictions, targets):
    with pytest.raises(ValueError, match="one is needed for each"):
        score(predictions, targets)


def test_a_missing_question_is_an_error():
    with pytest.raises(ValueError, match="0 questions for 1 targets"):
        evaluate(["a"], ["a"], [])
