"""The report of a run: the contents of its workdir, on one page that needs no other file."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from sslssaw_jax.data.text import counts_characters
from sslssaw_jax.errors import UserError
from sslssaw_jax.evaluation.predictions import (
    Prediction,
    is_ranked,
    read_predictions,
    rouge_l,
    worst_and_best,
)
from sslssaw_jax.evaluation.wer import GLOSS_SCORES
from sslssaw_jax.report.curves import training_curves
from sslssaw_jax.report.html import data_uri, render
from sslssaw_jax.report.score_table import COLUMNS, ScoreRow, gloss_notes, score_rows, understanding_notes
from sslssaw_jax.report.word_diff import diff_html
from sslssaw_jax.workdir import (
    EVALUATED,
    FINISHED,
    HEATMAPS,
    LOG,
    METRICS,
    REPORT,
    DamagedFileError,
    is_inside,
    predictions_file,
    read_json,
    read_log,
    read_notes,
    write_text,
)

SHOWN = 6  # clips, half of them the worst
SURE = 0.05  # a difference with a p-value below this is called sure
_FIRST = ("bleu4", "rouge_l", "p")  # columns that a phone shows


class Picture(NamedTuple):
    """A picture that is part of the page."""

    alt: str
    source: str


class ClipEntry(NamedTuple):
    """A clip with its texts and what the model saw."""

    heading: str
    caption: str
    texts: list[tuple[str, str]]  # name, text
    picture: Picture | None


def write_report(workdir: Path) -> Path:
    """Write `WORKDIR/report.html` and return its path.

    Raises:
        UserError: The folder is not a workdir of a run, or one of its files is damaged.
    """
    path = workdir / REPORT
    try:
        page = render_report(workdir.resolve())
    except KeyError as missing:  # the files are JSON, but not a run's
        raise UserError(
            f"the files of {workdir} are not those of a run ({FINISHED}, {LOG} or the configuration lacks "
            f"{missing}): name another --workdir"
        ) from missing
    write_text(path, page)
    return path


def render_report(workdir: Path) -> Markup:
    """Return the page of a workdir, given by its absolute path."""
    notes, log = read_notes(workdir), read_log(workdir / LOG)
    config = notes.get("config", {})
    metrics = dict(reversed(_metrics(workdir).items()))  # test first
    file = _predictions_file(workdir, [*metrics][:1])
    predictions = read_predictions(file) if file else []
    if not (metrics or predictions or (workdir / LOG).exists()):
        raise UserError(f"{workdir} is not a workdir: it holds no log, scores or predictions of a run")
    translated = {split: scores for split, scores in metrics.items() if set(scores) != {GLOSS_SCORES}}
    start = config.get("init_from")
    earlier = _with_earlier(workdir.parent / start) if start else []
    return render(
        "report.html",
        name=f"{workdir.parent.name}/{workdir.name}" if (workdir / EVALUATED).exists() else workdir.name,
        facts=_facts(config),
        notice=_notice(workdir, log, metrics),
        **_scores({split: score_rows(scores) for split, scores in translated.items()}),
        understanding=[*understanding_notes(metrics), *gloss_notes(translated)],
        clips=_clip_entries(workdir, predictions),
        language=notes.get("dataset", {}).get("language", "").split("_")[0],
        is_ranked=is_ranked(predictions),
        predictions_file=file and file.name,
        num_predictions=len(predictions),
        has_heatmaps=(workdir / HEATMAPS).is_dir(),
        curves=training_curves([*earlier, *_with_earlier(workdir)]),
        config=json.dumps(config, ensure_ascii=False, indent=2) if config else "",
    )


def _with_earlier(workdir: Path) -> list[Path]:
    """Return a workdir after those of the stages trained inside it."""
    inner = [workdir, workdir / "gloss2text"]  # the earlier, the deeper
    recognizers = [folder / "recognize" for folder in inner]
    earlier = [each for folder in recognizers for each in (folder / "warm_start", folder)]
    return [*earlier, workdir / "gloss2text", workdir / "warm_start", workdir]


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty without a file."""
    try:
        return read_json(path) if path.exists() else {}
    except DamagedFileError as error:
        raise UserError(f"{error}: run with --mode=eval to write it again") from None


def _metrics(workdir: Path) -> dict[str, Any]:
    """Return the scores of each split, if any."""
    found = _read(workdir / METRICS)
    for split, scores in found.items():
        rows = score_rows(scores) if isinstance(scores, dict) else []
        figures = [row.scores.get(column) for row in rows for column in COLUMNS]
        if not rows or not all(isinstance(figure, int | float | None) for figure in figures):
            raise UserError(f"{workdir / METRICS} is damaged: {split} has no scores; run with --mode=eval")
    return found


def _predictions_file(workdir: Path, splits: Sequence[str]) -> Path | None:
    """Return the predictions for one of these splits, otherwise for any."""
    files = [workdir / predictions_file(split) for split in splits]
    found = [file for file in files if file.exists()] or sorted(workdir.glob("predictions.*.jsonl"))
    return found[-1] if found else None


def _facts(config: Mapping[str, Any]) -> list[str]:
    if not config:
        return []
    data, model = config["data"], config["model"]
    facts = [config["name"], data["dataset"], f"seed {config['seed']}", config["system"]]
    for key, value in model.items():
        kind = value.get("kind") if isinstance(value, dict) else value
        if isinstance(kind, str):
            facts.append(f"{key.replace('_', ' ')} {kind}")
    return facts


def _notice(workdir: Path, log: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> str:
    """Return a sentence about what the workdir lacks, if anything."""
    if not (workdir / LOG).exists():  # nothing is trained here
        return ""
    notes = _read(workdir / FINISHED)
    if not notes:
        end = f": its log ends at step {log[-1]['step']:,} of {log[-1]['stage']}" if log else ""
        return f"This run has not finished{end}."
    if notes["stage"] == "recognize" and metrics:
        return " ".join(f"{note.capitalize()}." for note in gloss_notes(metrics))
    if notes["stage"] != "translate":
        return "A stage before translation: it has curves, but nothing to score."
    return "" if metrics else "Trained, but not evaluated: run with --mode=eval."


def _scores(splits: Mapping[str, Sequence[ScoreRow]]) -> dict[str, Any]:
    """Return what the templates show of the scores."""
    tiles: list[tuple[str, ScoreRow, str]] = []
    comparisons, parts, verdict = [], [], ""
    for split, (run, *others) in splits.items():
        if not tiles:
            copied = [row for row in others if row.key == "copy_question"]
            tiles = [(f"BLEU-4 on {split}", run, "bleu4"), ("ROUGE-L", run, "rouge_l")]
            tiles += [("BLEU-4 of the question copied", row, "bleu4") for row in copied]
            tiles += [("clips", run, "num_clips")]
            verdict = _verdict(run, copied) + _higher_baselines(run, others)
        compared = [row for kind in ("baseline", "questions") for row in others if row.kind == kind]
        comparisons.append((f"{split}, {run.text('num_clips')} clips", [run, *compared]))
        parts.append((split, [run._replace(key="all clips"), *(row for row in others if row.kind == "part")]))
    rows = [*chain.from_iterable(splits.values())]
    first = [key for key in _FIRST if key != "p" or any(row.text("p") for row in rows)]
    return {
        "splits": splits,
        "tiles": tiles,
        "verdict": verdict,
        "comparisons": comparisons,
        "parts": parts,
        "columns": {key: COLUMNS.get(key, key) for key in (*first, *COLUMNS)},
        "meanings": {row.label: row.meaning for _, group in comparisons for row in group if row.meaning},
        "has_intervals": any("intervals" in row.scores for row in rows),
    }


def _verdict(run: ScoreRow, copied: Sequence[ScoreRow]) -> str:
    """Say in plain words whether a run is better than its questions."""
    if not copied:
        return "These clips have no questions, so there is no copied question to compare the score with."
    (copy,), p_value = copied, copied[0].text("p")
    pair = f"this run scores {run.text('bleu4')} BLEU-4, the copied question {copy.text('bleu4')}"
    if run.scores["bleu4"] <= copy.scores["bleu4"]:
        return f"Not better than repeating the question: {pair}."
    if p_value and float(p_value) >= SURE:
        pair += f", a difference that may be chance (p = {p_value})"
        return f"Not surely better than repeating the question: {pair}."
    return f"Better than repeating the question: {pair}" + (f" (p = {p_value})." if p_value else ".")


def _higher_baselines(run: ScoreRow, others: Sequence[ScoreRow]) -> str:
    """Name each other baseline that scores at least as high."""
    baselines = [row for row in others if row.kind == "baseline" and row.key != "copy_question"]
    higher = [row for row in baselines if (row.scores["bleu4"] or 0) >= run.scores["bleu4"]]
    return "".join(f" Not better than {row.label}: {row.text('bleu4')}." for row in higher)


def _clip_entries(workdir: Path, predictions: Sequence[Prediction]) -> list[ClipEntry]:
    """Return the worst and best clips; without references the first."""
    characters = counts_characters(row.target for row in predictions)
    places = worst_and_best(predictions)[:SHOWN]
    named = [("Worst: ", place) for place in places[::2]] + [("Best: ", place) for place in places[1::2]]
    if not is_ranked(predictions):
        named = [("", place) for place in places]
    return [_clip_entry(workdir, name, predictions[place], characters) for name, place in named]


def _clip_entry(workdir: Path, name: str, row: Prediction, characters: bool) -> ClipEntry:
    caption, prediction = f"the model's score {row.score:.2f}", row.prediction
    if row.target:  # nothing is right or wrong without a reference
        caption = f"ROUGE-L {rouge_l(row, characters):.1f}, {caption}"
        prediction = diff_html(row.target, row.prediction, characters)
    texts = {"Question": row.question, "Reference": row.target, "Prediction": prediction}
    heatmap = workdir / HEATMAPS / f"{row.id}.png"
    alt = f"What the sentence of {row.id} depends on: the question's words and the video's stretches"
    picture = None
    if not is_inside(workdir, heatmap):
        caption += "; its picture lies outside this folder and is left out"
    elif heatmap.exists():
        picture = Picture(alt, data_uri(heatmap))
    return ClipEntry(f"{name}{row.id}", caption, [item for item in texts.items() if item[1]], picture)
