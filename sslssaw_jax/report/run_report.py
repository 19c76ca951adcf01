"""What a workdir holds, on one page: `python -m sslssaw_jax.report --workdir=runs/demo`.

A run writes `report.html` into its workdir at its end; the command writes it again from what lies there. The
page needs nothing beside it, and leaves out what the workdir does not hold.
"""

import argparse
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslssaw_jax.evaluation.metrics import LABELS
from sslssaw_jax.evaluation.predictions import Prediction, rouge_l, worst_and_best
from sslssaw_jax.report.curves import training_curves
from sslssaw_jax.report.html import figures_table, page, picture, texts_table
from sslssaw_jax.report.word_diff import LEGEND, diff_html
from sslssaw_jax.training.checkpoints import SCORE
from sslssaw_jax.workdir import (
    CHECKPOINTS,
    FINISHED,
    FRAMES,
    HEATMAPS,
    LOG,
    METRICS,
    REPORT,
    predictions_file,
    read_log,
    read_meta,
    saved_steps,
    write_text,
)

SHOWN = 6  # clips, half of them the worst
COLUMNS = LABELS | {"chrf": "chrF"}
BESIDE = {
    "copy_question": ("question copied", "the lower-cased question taken as the translation"),
    "edited_question": ("question edited", "the question rewritten by fixed rules, without learning"),
    "question_only": ("question only", "a model trained without any video"),
    "shuffled": ("questions shuffled", "this run, each clip with the question of another"),
    "blanked": ("questions blanked", "this run without any question"),
}
Scores = Mapping[str, Any]  # of a split, as `metrics.json` holds them


def write_report(workdir: Path) -> Path:
    """Writes `WORKDIR/report.html` and returns its path.

    Raises:
        ValueError: the folder is no workdir of a run, or one of its files is broken.
    """
    path = workdir / REPORT
    write_text(path, render(workdir.resolve()))
    return path


def render(workdir: Path) -> str:
    """The page of a workdir, whose path is absolute: its name is the heading, and stage 1 lies beside it."""
    config, log = _config(workdir), read_log(workdir / LOG)
    metrics = dict(reversed(_read(workdir / METRICS).items()))  # test first
    predictions = _predictions(workdir, [*metrics][:1])
    if not (metrics or predictions or (workdir / LOG).exists()):
        raise ValueError(f"{workdir} is no workdir: it holds no log, scores or predictions of a run")
    sections = [f"<h1>{html.escape(workdir.name)}</h1>", _facts(config), _notice(workdir, log, metrics)]
    if metrics:
        sections += [_tiles(metrics), _scores(metrics), _leakage(metrics)]
    sections += [_clips(workdir, predictions)] if predictions else []
    sections += [_curves(workdir, config.get("init_from", "none")), _settings(config)]
    return page(f"{workdir.name}: report", "\n".join(filter(None, sections)))


def _settings(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    text = html.escape(json.dumps(config, ensure_ascii=False, indent=2))
    return f'<details><summary>Configuration</summary><pre class="scroll">{text}</pre></details>'


def _read(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is broken ({error}): run with --mode=eval, which writes it again") from None


def _config(workdir: Path) -> dict[str, Any]:
    """Of the finished run, or of its latest checkpoint; empty where there is neither."""
    steps = saved_steps(workdir / CHECKPOINTS)
    notes = _read(workdir / FINISHED)
    if not notes and steps:
        notes = read_meta(workdir / CHECKPOINTS / str(steps[-1]))
    return notes.get("config", {})


def _predictions(workdir: Path, splits: Sequence[str]) -> list[Prediction]:
    """Of the first of these splits; where they have none, of the file there is."""
    files = [workdir / predictions_file(split) for split in splits]
    found = [file for file in files if file.exists()] or sorted(workdir.glob("predictions.*.jsonl"))
    if not found:
        return []
    with found[-1].open(encoding="utf-8") as lines:
        return [Prediction(**json.loads(line)) for line in lines]


def _facts(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    data, model = config["data"], config["model"]
    facts = [config["name"], data["dataset"], f"seed {config['seed']}", model["cnn"], model["text"]]
    if config["stage"] == "translate":
        facts += [f"fusion {model['fusion']['kind']}", f"inputs {model['inputs']}", f"SSL {model['ssl']}"]
    return f'<p class="quiet">{html.escape(" · ".join(facts))}</p>'


def _notice(workdir: Path, log: Sequence[Mapping[str, Any]], metrics: Mapping[str, Scores]) -> str:
    """What is missing in the workdir, in a sentence."""
    if not (workdir / LOG).exists():  # nothing is trained here
        return ""
    notes = _read(workdir / FINISHED)
    if not notes:
        told = "This run has not finished"
        told += f": its log ends at step {log[-1]['step']:,} of {log[-1]['stage']}." if log else "."
    elif notes["stage"] != "translate":
        told = "A stage before translation: it has curves, and nothing to score."
    elif not metrics:
        told = "Trained, but not evaluated: run with --mode=eval."
    else:
        return ""
    return f'<p class="notice">{html.escape(told)}</p>'


def _tiles(metrics: Mapping[str, Scores]) -> str:
    split, scores = next(iter(metrics.items()))
    copied = scores.get("baselines", {}).get("copy_question", {})
    tiles = [(f"BLEU-4 on {split}", _figure(scores, "bleu4")), ("ROUGE-L", _figure(scores, "rouge_l"))]
    tiles += [("BLEU-4 of the question copied", _figure(copied, "bleu4"))] if copied else []
    tiles += [("clips", str(scores["num_clips"]))]
    shown = [f"<div><b>{figure}</b>{html.escape(name)}</div>" for name, figure in tiles]
    return f'<div class="tiles">{"".join(shown)}</div>'


def _figure(scores: Scores, key: str) -> str:
    """A score, and its interval below where it has one."""
    if scores.get(key) is None:
        return "–"
    low, high = scores.get("intervals", {}).get(key) or (None, None)
    interval = "" if low is None else f"<small>{low:.1f} to {high:.1f}</small>"
    return f"{scores[key]:.2f}{interval}"


def _scores(metrics: Mapping[str, Scores]) -> str:
    """This run and what it must be read beside, a group of rows a split."""
    groups = []
    for split, scores in metrics.items():
        rows = [["this run", *(_figure(scores, key) for key in COLUMNS)]]
        for name, _, other in _beside(scores):
            rows.append([html.escape(name), *(_figure(other, key) for key in COLUMNS)])
            if p_value := other.get("p_value"):
                rows[-1].append(f"{p_value[SCORE]:.3f}")
        groups.append((f"{split}, {scores['num_clips']} clips", rows))
    head, notes = ["", *COLUMNS.values()], _meanings(metrics)
    if any("intervals" in scores for scores in metrics.values()):
        notes.append("Below a score: its 95\u00a0% interval over resampled clips.")
    if any(len(row) > len(head) for _, rows in groups for row in rows):
        head.append("p")
        notes.append(
            "p: how likely a difference in BLEU-4 as large as this run's is by chance (paired bootstrap)."
        )
    return (
        f"<section><h2>Scores</h2>{figures_table(head, groups)}"
        f'<p class="quiet">{html.escape(" ".join(notes))}</p></section>'
    )


def _beside(scores: Scores) -> list[tuple[str, str, Scores]]:
    """Name, meaning and scores of what stands beside those of the run."""
    found = {**scores.get("baselines", {}), **scores.get("questions", {})}
    return [(*BESIDE.get(key, (key.replace("_", " "), "")), other) for key, other in found.items()]


def _meanings(metrics: Mapping[str, Scores]) -> list[str]:
    told = {name: meaning for scores in metrics.values() for name, meaning, _ in _beside(scores)}
    return [f"{name.capitalize()}: {meaning}." for name, meaning in told.items() if meaning]


def _leakage(metrics: Mapping[str, Scores]) -> str:
    """Scores by how much of the target the question holds."""
    tables = []
    for split, scores in metrics.items():
        parts = {"all clips": scores}
        for name, part in scores.get("overlap_buckets", {}).items():
            parts["overlap " + name.replace("-", "\u2011")] = part  # a hyphen that ends no line
        for key in ("without_copies", "overlap_free"):
            if key in scores:
                parts[key.replace("_", " ")] = scores[key]
        rows = [
            [html.escape(name), str(part["num_clips"]), _figure(part, "bleu4"), _figure(part, "rouge_l")]
            for name, part in parts.items()
        ]
        tables.append(figures_table(["", "clips", "BLEU-4", "ROUGE-L"], [(split, rows)]))
    return (
        "<section><h2>What the questions give away</h2>"
        "<p>A question may hold much of its answer, and a system that repeats it scores without a look at "
        "the video. A score tells of sign language only as far as it lies above what the question alone "
        "reaches, and as far as it stays when questions are shuffled or blanked and where they give little "
        "away.</p>"
        f'<div class="columns">{"".join(tables)}</div>'
        '<p class="quiet">Overlap: the share of the target\'s distinct words that its question holds. '
        "Without copies: the clips whose question is not the target itself. Overlap free: those whose "
        "question holds no two words of the target in a row.</p></section>"
    )


def _curves(workdir: Path, init_from: str) -> str:
    stage_1 = workdir.parent / init_from
    curves = training_curves([stage_1 / "warm_start", stage_1, workdir / "warm_start", workdir])
    return curves and f'<section><h2>Training</h2><div class="columns">{curves}</div></section>'


def _clips(workdir: Path, predictions: list[Prediction]) -> str:
    places = worst_and_best(predictions)[:SHOWN]
    parts = [_clip(workdir, "Worst", predictions[place]) for place in places[::2]]
    parts += [_clip(workdir, "Best", predictions[place]) for place in places[1::2]]
    told = "By ROUGE-L of the sentence; where that is equal, by the model's own score."
    if (workdir / HEATMAPS).is_dir():
        told += (
            " The gate lets more through where a picture is brighter; boxes mark the upper quarter of what "
            "the words span, and of what the video spans."
        )
    return (
        f'<section><h2>Worst and best clips</h2><p class="quiet">{told}</p>{LEGEND}{"".join(parts)}</section>'
    )


def _clip(workdir: Path, which: str, row: Prediction) -> str:
    rows = {"Question": html.escape(row.question), "Reference": html.escape(row.target)}
    caption = f"the model's score {row.score:.2f}"
    if row.target:
        rows["Prediction"] = diff_html(row.target, row.prediction)
        caption = f"ROUGE-L {rouge_l(row):.1f}, {caption}"
    else:  # a clip of one's own: nobody knows what is wrong
        rows["Prediction"] = html.escape(row.prediction)
    parts = [
        f"<h3>{which}: {html.escape(row.id)}</h3>",
        texts_table(caption, [(name, text) for name, text in rows.items() if text]),
    ]
    heatmap, frames = workdir / HEATMAPS / f"{row.id}.png", workdir / FRAMES / f"{row.id}.jpg"
    if heatmap.exists():
        parts.append(
            picture(heatmap, f"Weights of the question's words and of the video of {row.id}", "heatmap")
        )
    elif frames.exists():
        parts.append(picture(frames, f"Frames of {row.id}", "frames"))
    return "".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sslssaw_jax.report", description="Writes WORKDIR/report.html from what WORKDIR holds."
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of a run, such as runs/demo")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.workdir))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
