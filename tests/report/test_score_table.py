import dataclasses

import pytest

from sslssaw_jax.evaluation.leakage import evaluate, question_baselines
from sslssaw_jax.evaluation.metrics import score
from sslssaw_jax.evaluation.predictions import Prediction, evaluate_predictions, score_predictions
from sslssaw_jax.evaluation.understanding import UNDERSTANDING, find_threshold
from sslssaw_jax.evaluation.wer import GLOSS_SCORES, score_glosses
from sslssaw_jax.report.score_table import BASELINE_LABELS, format_gloss_table, format_table, gloss_notes

TARGETS, QUESTIONS = ["regen im norden", "schnee im süden"], ["Im Norden", "wo"]
BASELINES = question_baselines(QUESTIONS, TARGETS, "de_DE") | {"question_only": ["regen", ""]}


def test_the_table_shows_every_score_of_every_split_and_no_row_of_an_empty_bucket():
    metrics = {
        "dev": evaluate(["regen im norden", "regen"], TARGETS, QUESTIONS, BASELINES),
        "test": evaluate(TARGETS, TARGETS, QUESTIONS, BASELINES),
    }
    metrics["test"]["questions"] = {"shuffled": score(["regen", "regen"], TARGETS)}
    found = find_threshold([-0.5, -0.6], [90, 90], [-1.0, -1.5], [10, 20])
    metrics["dev"][UNDERSTANDING] = dataclasses.asdict(found)
    lines = format_table(metrics).splitlines()
    assert max(map(len, lines)) <= 81, "80, if chrF is below 100"
    head = "system BLEU-4 ROUGE-L p clips BLEU-1 BLEU-2 BLEU-3 chrF"
    assert " ".join(lines[0].split()) == head
    cells = [line.split() for line in lines]
    test, dev = (cells.index(row) for row in cells if row[:3] == ["this", "run", "on"])
    scores = [f"{metrics['dev'][key]:.2f}" for key in ("bleu4", "rouge_l")]
    assert cells[dev][3:7] == ["dev", *scores, "2"]
    assert cells[test][5:8] == ["100.00", "2", "100.00"]
    low, high = metrics["dev"]["intervals"]["rouge_l"]
    assert cells[dev + 1] == ["±", "95", "%", "0.00", f"{(high - low) / 2:.2f}"]
    assert not any(row[:2] == ["overlap", "0.25-0.50"] for row in cells)
    for name, baseline in metrics["dev"]["baselines"].items():
        row = next(row for row in cells[dev:] if row[:2] == BASELINE_LABELS[name][0].split())
        assert row[2:4] == [f"{baseline[key]:.2f}" for key in ("bleu4", "rouge_l")]
        assert row[4] == f"{baseline['p_value']['bleu4']:.3f}"
    assert " ".join(lines[-2:]) == (
        "not understood: scores below -0.80 (no better than without video); so low are 0% of the sentences "
        "of dev, and 100% if its frames are black"
    )
    shuffled = [row for row in cells if row[:2] == ["questions", "shuffled"]]
    assert [row[3] for row in shuffled] == [f"{metrics['test']['questions']['shuffled']['rouge_l']:.2f}"]


def test_chinese_is_scored_by_its_characters_and_german_by_sacrebleu_s_words():
    asked = Prediction("a", "明天呢", "明天下雨", "明天下雪", -1.0)  # one character in four is wrong
    unasked = Prediction("b", "", "今年有雪", "今年有雨", -1.0)
    found = evaluate_predictions([asked, unasked], "csl_daily_qa", "zh_CN", None)
    scores = score_predictions([asked, unasked])
    assert scores["bleu1"] == found["bleu1"] == pytest.approx(75)
    assert "tok:zh" in found["sacrebleu_signature"]
    assert found["baselines"]["copy_question"]["bleu1"] > 0
    assert found["overlap_buckets"]["0.50-0.75"]["rouge_l"] > 0
    for part in (found, found["overlap_free"]):
        assert part["intervals"]["rouge_l"][1] > 0
    assert found["overlap_free"]["num_clips"] == 1
    assert "tok:13a" in score(TARGETS, TARGETS)["sacrebleu_signature"]


def test_phoenix_alone_is_scored_with_a_final_period_too():
    texts = zip("ab", QUESTIONS, TARGETS, ["regen im norden", "regen"])
    rows = [Prediction(*text, score=-1.0) for text in texts]
    phoenix, other = (
        evaluate_predictions(rows, f"{name}_qa", "de_DE", None) for name in ("phoenix2014t", "qsl")
    )
    with_period = phoenix.pop("with_final_period")
    assert phoenix == other
    ended = [[f"{text} ." for text in each] for each in (["regen im norden", "regen"], TARGETS)]
    assert with_period == score(*ended)
    (line,) = [
        line
        for line in format_table({"test": phoenix | {"with_final_period": with_period}}).splitlines()
        if line.split()[:3] == ["with", "final", "period"]
    ]
    assert line.split()[3] == f"{with_period['bleu4']:.2f}"


def test_the_metrics_of_an_older_run_are_shown_without_what_they_lack():
    """Scores as written before intervals, other baselines and swapped questions existed."""
    old = score(["regen im norden", "regen"], TARGETS)
    old |= {
        "baselines": {"copy_question": score(["im norden", "wo"], TARGETS)},
        "overlap_buckets": {"0.00-0.25": {"bleu4": None, "rouge_l": None, "num_clips": 0}},
        "without_copies": {"bleu4": 1.5, "rouge_l": 2.5, "num_clips": 2},
    }
    text = format_table({"test": old})
    assert f"{old['baselines']['copy_question']['rouge_l']:.2f}" in text
    assert "overlap free" not in text.split("without copies:")[0]
    table, _ = text.split("\n\n")
    assert not any(line.split()[0] in ("±", "questions") for line in table.splitlines())


def test_recognised_glosses_are_shown_with_what_is_wrong_about_them():
    """Of four glosses, two are left out and one is substituted."""
    scores = score_glosses(["A X", "B C"], ["A B C D", ""], phoenix=False)
    metrics = {"dev": {"bleu4": 1.0}, "test": {GLOSS_SCORES: scores}}
    head, _, cells = (line.split() for line in format_gloss_table(metrics).splitlines())
    assert " ".join(head) == "split WER substituted left out added glosses clips"
    assert cells == ["test", "75.00", "25.00", "50.00", "0.00", "4", "1"]
    assert gloss_notes(metrics) == [
        "glosses of test: word error rate 75.00 %, of 4 glosses 25.00 % substituted, 50.00 % left out, "
        "0.00 % added"
    ]
    assert format_gloss_table({"dev": {"bleu4": 1.0}}) == ""
    cleaned = score_glosses(["REGEN REGEN"], ["REGEN"], phoenix=True)
    _, _, cells = (line.split() for line in format_gloss_table({"dev": {GLOSS_SCORES: cleaned}}).splitlines())
    assert cells[:3] == ["dev", "0.00", "100.00"], "the rate as written comes second"
