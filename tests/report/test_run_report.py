"""The page shows the contents of the workdir, needs no other files, and takes no text for markup."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sslssaw_jax.config.experiment import to_dict
from sslssaw_jax.errors import UserError
from sslssaw_jax.evaluation.leakage import BUCKETS
from sslssaw_jax.evaluation.predictions import Prediction, worst_and_best
from sslssaw_jax.report.__main__ import main
from sslssaw_jax.report.curves import MOST_POINTS, Curve, draw_curves
from sslssaw_jax.report.html import render
from sslssaw_jax.report.run_report import write_report
from sslssaw_jax.report.score_table import COLUMNS
from sslssaw_jax.workdir import locked
from tests.support.toy import toy_config

SHOWN = ["bleu4", "rouge_l", "p", "bleu1", "bleu2", "bleu3", "chrf"]  # columns: the first fit a phone
SCRIPT = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='x'"
VOID = {"meta", "img", "br", "line", "polyline", "circle"}


class Page(HTMLParser):
    """A page's elements with their attributes, and its tables as rows of texts; fails if tags do not pair."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "small":
            self.handle_data(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def tags(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in names]


def scores(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    return {key: float(rng.uniform(0, 100)) for key in COLUMNS} | {"num_clips": 8} | more


def split_scores(seed: int) -> dict[str, Any]:
    """Everything that an evaluation may hold."""
    rng = np.random.default_rng(seed)
    return scores(
        rng,
        intervals={key: sorted(rng.uniform(0, 100, 2).tolist()) for key in COLUMNS},
        baselines={
            "copy_question": scores(rng, p_value={"bleu4": 0.004}),
            "question_only": scores(rng, p_value={"bleu4": 0.25}),
        },
        questions={"shuffled": scores(rng), "blanked": scores(rng)},
        overlap_buckets={name: scores(rng) for name in BUCKETS}
        | {"0.75-1.00": {"bleu4": None, "rouge_l": None, "num_clips": 0}},
        without_copies=scores(rng),
        overlap_free=scores(rng),
    )


def predictions(target: str = "the rain comes from the west", question: str = "what comes ?") -> list[dict]:
    words = target.split()
    said = [" ".join(words[: 6 - i] + ["x"] * i) for i in range(7)]
    return [
        {"id": f"clip{i}", "question": question, "target": target, "prediction": text, "score": -0.1 * i}
        for i, text in enumerate([*said, "nothing"])
    ]


def write_log(workdir: Path, stage: str, *parts: str) -> None:
    rows = [
        {"step": step, "stage": stage, "loss": 9 / step, **dict.fromkeys(parts, 0.5)} for step in range(1, 40)
    ]
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_config(**changes: Any) -> dict[str, Any]:
    return to_dict(toy_config(init_from="stage1", **changes))


def write_mark(workdir: Path, config: dict[str, Any]) -> None:
    mark = {"stage": config["stage"], "step": 39, "config": config}
    (workdir / "finished.json").write_text(json.dumps(mark), encoding="utf-8")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A finished run next to its stage 1, without training."""
    workdir = tmp_path / "runs" / "whole"
    write_log(tmp_path / "runs" / "stage1", "pretrain", "loss_restore")
    write_log(workdir, "translate", "loss_sentence")
    (workdir / "checkpoints").mkdir()
    (workdir / "checkpoints" / "scores.json").write_text('{"20": {"bleu4": 31.0, "rouge_l": 40.0}}')
    write_mark(workdir, run_config())
    (workdir / "metrics.json").write_text(json.dumps({"dev": split_scores(0), "test": split_scores(1)}))
    for split in ("dev", "test"):
        write_jsonl(workdir / f"predictions.{split}.jsonl", predictions())
    (workdir / "heatmaps").mkdir()
    for i in (0, 7):
        cv2.imwrite(str(workdir / "heatmaps" / f"clip{i}.png"), np.full((4, 4 + i, 3), 200, np.uint8))
    return workdir


def test_the_figures_are_those_of_metrics_json_with_intervals_and_p_values(workdir: Path) -> None:
    page = Page(write_report(workdir))
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert [row for row in page.rows if row[0].endswith("8 clips")] == [["test, 8 clips"], ["dev, 8 clips"]]
    for split in ("test", "dev"):
        found = metrics[split]
        bounds = found["intervals"]
        shown = [
            "" if key == "p" else f"{found[key]:.2f} {bounds[key][0]:.1f} to {bounds[key][1]:.1f}"
            for key in SHOWN
        ]
        assert ["this run", *shown] in page.rows
        for name, other, p in (
            ("question copied", found["baselines"]["copy_question"], "0.004"),
            ("question only", found["baselines"]["question_only"], "0.250"),
            ("questions shuffled", found["questions"]["shuffled"], ""),
            ("questions blanked", found["questions"]["blanked"], ""),
        ):
            assert [name, *(p if key == "p" else f"{other[key]:.2f}" for key in SHOWN)] in page.rows
        for name in ("without_copies", "overlap_free"):
            part = found[name]
            figures = ["8", f"{part['bleu4']:.2f}", f"{part['rouge_l']:.2f}"]
            assert [name.replace("_", " "), *figures] in page.rows
        assert "overlap 0.75" not in page.text  # no clips, no row
    assert page.rows[0] == ["", "BLEU-4", "ROUGE-L", "p", "BLEU-1", "BLEU-2", "BLEU-3", "chrF"]


def test_the_tiles_show_the_scores_of_test_and_that_of_its_copied_questions(workdir: Path) -> None:
    source = Page(write_report(workdir)).source
    found = json.loads((workdir / "metrics.json").read_text())["test"]
    copied = found["baselines"]["copy_question"]["bleu4"]
    tiles = re.findall(r"<div><b>([\d.]+)(?:<small>.*?</small>)?</b>(.*?)</div>", source)
    assert tiles == [
        (f"{found['bleu4']:.2f}", "BLEU-4 on test"),
        (f"{found['rouge_l']:.2f}", "ROUGE-L"),
        (f"{copied:.2f}", "BLEU-4 of the question copied"),
        ("8", "clips"),
    ]


def test_the_page_needs_nothing_beside_it(workdir: Path) -> None:
    page = Page(write_report(workdir))
    assert not page.tags("script", "link", "iframe", "object", "embed", "base")
    sources = [value for _, attributes in page.elements for key, value in attributes.items() if key == "src"]
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert [attributes["href"] for _, attributes in page.elements if "href" in attributes] == [
        "predictions.test.jsonl"
    ]
    (policy,) = [tag["content"] for tag in page.tags("meta") if "http-equiv" in tag]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules.pop("style-src") == "'unsafe-inline'" and rules.pop("img-src") == "data:"
    assert rules == dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")
    for outside in ("http:", "https:", "url(", "@import"):
        assert outside not in page.source


def test_texts_are_no_markup_wherever_they_stand(workdir: Path) -> None:
    rows = predictions(f"the rain {SCRIPT}", f"{SCRIPT} ?")
    write_jsonl(workdir / "predictions.test.jsonl", [row | {"id": row["id"] + SCRIPT[5:]} for row in rows])
    metrics = json.loads((workdir / "metrics.json").read_text())
    metrics["test"]["baselines"][SCRIPT] = metrics["test"]["baselines"].pop("copy_question")
    (workdir / "metrics.json").write_text(json.dumps({SCRIPT: metrics["dev"], "test": metrics["test"]}))
    config = run_config()
    config["name"] = config["data"]["dataset"] = SCRIPT
    write_mark(workdir, config)
    page = Page(write_report(workdir))
    assert not page.tags("script", "img")  # the heat maps are other clips'
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert page.text.count("<script>alert(1)</script>") > 10


@pytest.mark.parametrize(
    ("missing", "told", "not_told"),
    [
        (["heatmaps"], ["Scores", "Worst: clip7", "Stage 2: loss"], []),
        (["finished.json"], ["This run has not finished: its log ends at step 39"], ["Configuration"]),
        (["metrics.json"], ["not evaluated: run with --mode=eval", "Worst: clip7"], ["Scores", "give away"]),
        (["log.jsonl"], ["Scores", "Worst: clip7", "Stage 1: loss"], ["Stage 2", "not finished"]),
        (["predictions.dev.jsonl", "predictions.test.jsonl"], ["Scores"], ["Worst"]),
        (["../stage1"], ["Scores", "Stage 2: loss"], ["Stage 1"]),
        (["checkpoints", "log.jsonl", "../stage1", "finished.json"], ["Scores"], ["Training", "finished"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_missing_is_left_out(
    workdir: Path, missing: list[str], told: list[str], not_told: list[str]
) -> None:
    for name in missing:
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(write_report(workdir))
    assert all(text in page.text for text in told)
    assert not any(text in page.text for text in not_told)


def test_scores_of_an_older_run_are_shown(workdir: Path) -> None:
    found = split_scores(0)
    old = {key: found[key] for key in (*COLUMNS, "num_clips", "overlap_buckets", "without_copies")}
    (workdir / "metrics.json").write_text(json.dumps({"test": old}))
    page = Page(write_report(workdir))
    assert ["this run", *(f"{old[key]:.2f}" for key in SHOWN if key != "p")] in page.rows
    assert "interval" not in page.text and "bootstrap" not in page.text


def test_stage_1_alone_has_curves_and_says_that_there_is_nothing_to_score(workdir: Path) -> None:
    stage_1 = workdir.parent / "stage1"
    write_mark(stage_1, run_config(stage="pretrain"))
    page = Page(write_report(stage_1))
    assert "Stage 1: loss" in page.text and "nothing to score" in page.text
    assert "Scores" not in page.text and "Stage 2" not in page.text
    (stage_1 / "log.jsonl").write_text("")  # fewer steps than are logged
    assert "Training" not in Page(write_report(stage_1)).text


def test_a_run_from_scratch_has_no_curves_of_other_runs(workdir: Path) -> None:
    write_log(workdir.parent / "recognize", "recognize")
    write_mark(workdir, to_dict(toy_config()))
    page = Page(write_report(workdir))
    assert "Stage 2" in page.text and "Recognition" not in page.text


def test_chinese_is_compared_by_characters_and_a_clip_may_have_no_question(workdir: Path) -> None:
    row = {"id": "a", "question": "", "target": "明天，下雨", "prediction": "今天,下雨", "score": -1.0}
    write_jsonl(workdir / "predictions.test.jsonl", [row])
    page = Page(write_report(workdir))
    spans = '<span class="wrong">今</span><span class="correct">天,下雨</span>'
    assert spans in page.source
    assert [cells for cells in page.rows if cells[0] == "Reference"] == [["Reference", "明天，下雨"]]
    assert "Question" not in [cells[0] for cells in page.rows]


@pytest.mark.parametrize(
    ("ours", "copied", "p", "told"),
    [
        (20.0, 10.0, 0.01, "Better than repeating the question: this run scores 20.00 BLEU-4, the copied"),
        (20.0, 10.0, 0.2, "Not surely better than repeating the question: .* may be chance (p = 0.200)."),
        (
            10.0,
            20.0,
            0.01,
            "Not better than repeating the question: this run scores 10.00 BLEU-4, the copied",
        ),
        (10.0, None, None, "no copied question to compare the score with"),
    ],
)
def test_a_sentence_says_whether_the_score_is_good(
    workdir: Path, ours: float, copied: float | None, p: float | None, told: str
) -> None:
    found = split_scores(1) | {"bleu4": ours}
    found["baselines"] = {}
    if copied is not None:
        found["baselines"]["copy_question"] = found["without_copies"] | {
            "bleu4": copied,
            "p_value": {"bleu4": p},
        }
    (workdir / "metrics.json").write_text(json.dumps({"test": found}))
    text = Page(write_report(workdir)).text
    assert all(part in text for part in told.split(" .* "))


def test_the_sentence_names_each_baseline_that_scores_as_high(workdir: Path) -> None:
    found = split_scores(1) | {"bleu4": 20.0}
    baselines = {"copy_question": 10.0, "edited_question": 20.0, "question_only": 19.0}
    found["baselines"] = {name: found["overlap_free"] | {"bleu4": bleu} for name, bleu in baselines.items()}
    (workdir / "metrics.json").write_text(json.dumps({"test": found}))
    page = Page(write_report(workdir))
    assert "the copied question 10.00. Not better than question edited: 20.00." in page.text
    assert "Not better than question only" not in page.text


def test_a_screen_reader_learns_languages_headings_and_what_the_curves_show(workdir: Path) -> None:
    page = Page(write_report(workdir))
    assert not page.tags("td")[0] and all("scope" in heading for heading in page.tags("th"))
    assert not any("lang" in cell for cell in page.tags("td"))  # this run's notes lack the language
    mark = json.loads((workdir / "finished.json").read_text())
    (workdir / "finished.json").write_text(json.dumps(mark | {"dataset": {"language": "de_DE"}}))
    page = Page(write_report(workdir))
    assert [cell["lang"] for cell in page.tags("td") if "lang" in cell] == ["de"] * 18
    scrolled = [part for part in page.tags("div") if "tabindex" in part]
    assert len(scrolled) == 5 and all(part["aria-label"] for part in scrolled)
    assert scrolled[0]["aria-label"] == "Scores of test, 8 clips and dev, 8 clips"
    curves = [drawn["aria-label"] for drawn in page.tags("svg") if drawn.get("role") == "img"]
    assert "Stage 2: loss over training steps: loss from 9 to 0.231; loss sentence from 0.5 to 0.5" in curves


def test_own_clips_without_references_are_not_ranked(workdir: Path) -> None:
    for name in ("metrics.json", "predictions.dev.jsonl"):
        (workdir / name).unlink()
    rows = [row | {"target": ""} for row in predictions()]
    write_jsonl(workdir / "predictions.test.jsonl", rows)
    page = Page(write_report(workdir))
    assert not {"Worst", "ROUGE-L", "Green"} & set(page.text.replace(":", " ").split())
    assert "All 8: predictions.test.jsonl" in " ".join(page.text.split())
    assert [row[1] for row in page.rows if row[0] == "Prediction"] == [row["prediction"] for row in rows[:6]]


def test_only_pictures_of_the_workdir_are_in_the_page(workdir: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "secret.png"), np.zeros((4, 4, 3), np.uint8))
    (workdir / "heatmaps" / "link.png").symlink_to(tmp_path / "secret.png")
    names = ["../../../secret", "link", "clip7", str(tmp_path / "secret")]
    write_jsonl(
        workdir / "predictions.test.jsonl", [row | {"id": id_} for row, id_ in zip(predictions(), names)]
    )
    page = Page(write_report(workdir))
    assert len(page.tags("img")) == 1 and page.text.count("picture lies outside this folder") == 3
    (workdir / "heatmaps" / "clip7.png").write_text("root:x:0:0")
    with pytest.raises(UserError, match=r"clip7\.png is not a picture"):
        write_report(workdir)


def test_links_in_a_workdir_are_replaced_and_their_targets_stay(workdir: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    (workdir / "report.html").symlink_to(kept)
    (workdir / f".report.html.{os.getpid()}.tmp").symlink_to(kept)
    (workdir / "lock").symlink_to(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with locked(workdir):
            write_report(workdir)
    assert kept.read_text() == "mine"
    assert (
        not (workdir / "report.html").is_symlink()
        and "<h1>whole</h1>" in Page(workdir / "report.html").source
    )


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metrics.json", "[1]", r"metrics\.json is damaged: it holds no JSON object"),
        ("metrics.json", '{"test": 3}', r"metrics\.json is damaged: test"),
        ("metrics.json", '{"test": {"bleu4": "high"}}', r"metrics\.json is damaged: test"),
        (
            "predictions.test.jsonl",
            '{"id": 3}',
            r"predictions\.test\.jsonl, line 1 is damaged: a prediction has",
        ),
        ("predictions.test.jsonl", '{"id"', r"predictions\.test\.jsonl, line 1 is damaged: Expecting"),
        ("log.jsonl", "{}\n{\n", r"log\.jsonl, line 2 is damaged: Expecting"),
        ("finished.json", '{"config": {"name": "demo"}}', r"finished\.json, .* lacks 'data'"),
        ("finished.json", '{"step": 2}', r"finished\.json, .* lacks 'stage'"),
        (
            "finished.json",
            "version https://git-lfs.github.com/spec/v1",
            r"finished\.json is damaged: it is a Git",
        ),
    ],
)
def test_a_damaged_file_is_named_in_a_line(workdir: Path, name: str, text: str, told: str) -> None:
    (workdir / name).write_text(text)
    with pytest.raises(SystemExit, match=told) as ended:
        main([f"--workdir={workdir}"])
    assert "\n" not in str(ended.value)


def test_control_characters_of_files_do_not_reach_the_terminal(workdir: Path) -> None:
    bad = workdir.with_name("whole\x1b]0;title\x07\u202e")
    workdir.rename(bad)
    (bad / "metrics.json").write_text('{"')
    with pytest.raises(SystemExit) as ended:
        main([f"--workdir={bad}"])
    assert r"whole\x1b]0;title\x07\u202e" in str(ended.value)


def test_a_clip_without_a_reference_has_nothing_marked_as_wrong(workdir: Path) -> None:
    row = {"id": "mine", "question": "what\u2028comes ?", "target": "", "prediction": "rain", "score": -1.0}
    write_jsonl(workdir / "predictions.test.jsonl", [row])
    page = Page(write_report(workdir))
    assert ["Prediction", "rain"] in page.rows and "Reference" not in [cells[0] for cells in page.rows]
    assert '<span class="wrong">rain' not in page.source and "ROUGE-L 0.0" not in page.text


def test_the_worst_and_the_best_come_in_turn_and_each_once() -> None:
    rows = [
        Prediction("middle", "", "a b c d", "a b x y", -0.1),
        Prediction("best", "", "a b c d", "a b c d", -0.1),
        Prediction("good, less sure", "", "a b c d", "a b c d", -0.9),
        Prediction("worst", "", "a b c d", "x y", -0.1),
        Prediction("bad", "", "a b c d", "a x y z", -0.1),
    ]
    assert [rows[i].id for i in worst_and_best(rows)] == ["worst", "best", "bad", "good, less sure", "middle"]
    assert worst_and_best([dataclasses.replace(row, target="") for row in rows]) == [0, 1, 2, 3, 4]


def test_a_curve_falls_where_its_values_do_and_long_ones_are_thinned() -> None:
    falling = draw_curves("loss", [Curve("a", [(step, 1e4 - step) for step in range(1, 10_000)])])
    (points,) = [part.split('"')[0] for part in falling.split('points="')[1:]]
    places = np.array([[float(x) for x in point.split(",")] for point in points.split()])
    assert len(places) == MOST_POINTS
    assert (np.diff(places[:, 0]) >= 0).all() and (np.diff(places[:, 1]) >= 0).all()  # y grows downwards
    assert draw_curves("constant", [Curve("a", [(5, 0.0)])]).count("<polyline") == 1
    assert draw_curves("nothing", [Curve("a", [])]) == ""


def test_each_of_six_curves_has_its_colour_on_light_and_on_dark_paper() -> None:
    drawn = draw_curves("loss", [Curve(str(number), [(1, number)]) for number in range(6)])
    series = re.findall(r'<polyline class="series (s\d+)"', drawn)
    style = render("page.html")
    strokes = dict(re.findall(r"svg \.(s\d+) { stroke: var\((--\w+)\)", style))
    colours = [re.findall(rf"{strokes[one]}: (#\w+);", style) for one in series]
    assert len(series) == 6 and {len(both) for both in colours} == {2}
    assert len({colour for both in colours for colour in both}) == 12


def test_a_mistake_is_told_in_a_line_and_leaves_no_file(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="empty is not a workdir"):
        main([f"--workdir={tmp_path / 'empty'}"])
    with pytest.raises(SystemExit, match="nowhere is not a workdir"):
        main([f"--workdir={tmp_path / 'nowhere'}"])
    (workdir / "metrics.json").write_text('{"test": ')
    with pytest.raises(SystemExit, match=r"metrics\.json is damaged"):
        main([f"--workdir={workdir}"])
    assert not list(tmp_path.rglob("report.html"))
    (workdir / "metrics.json").unlink()
    main([f"--workdir={workdir}"])
    assert capsys.readouterr().out.strip() == str(workdir / "report.html")


def test_a_report_is_written_without_jax() -> None:
    code = "import sys, sslssaw_jax.report.run_report; sys.exit(bool({'jax', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
