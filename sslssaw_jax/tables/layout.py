"""A table from the paper with our scores next to the paper's: Markdown, CSV and a picture."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from sslssaw_jax.evaluation.metrics import FINAL_PERIOD, LABELS
from sslssaw_jax.tables import PAPER, TOY

TESTED = ("bleu4", "rouge_l")  # with intervals and p-values
WITH_PERIOD = "bleu4_with_period"  # of the datasets in `FINAL_PERIOD`


@dataclass(frozen=True)
class Run:
    """The results of one seed of a row on the test split."""

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # of `TESTED`, as `significance.confidence_interval`
    p_values: dict[str, float]  # of `TESTED`, against the same seed of the last row; {} without that run
    gains: dict[str, float]  # the differences that these p-values are for
    parameters: int | None = None  # of the last stage's model
    seconds: float | None = None  # of all training steps, with stage 1
    code: frozenset[str] = frozenset()  # that trained its stages


@dataclass(frozen=True)
class Row:
    """A row with the paper's scores and the results of our seeds."""

    labels: list[str]
    experiment: str
    paper: list[float] | None  # in the order of `LABELS`; None: the paper prints none
    runs: list[Run]  # finished ones
    failed: int = 0  # number of failed runs
    reason: str = ""  # the last message of a failed run

    @property
    def figures(self) -> list[str]:
        """Return the paper's scores in words."""
        return [f"{figure:.2f}" for figure in self.paper] if self.paper else ["–"] * len(LABELS)

    @property
    def paper_bleu4(self) -> float | None:
        """Return the paper's BLEU-4, if printed."""
        return self.paper[list(LABELS).index("bleu4")] if self.paper else None

    def mean(self, column: str) -> float:
        """Return the mean over seeds."""
        return statistics.fmean(run.scores[column] for run in self.runs)

    def deviation(self, column: str) -> float | None:
        """Return the sample's standard deviation; None for a single run."""
        return statistics.stdev(run.scores[column] for run in self.runs) if len(self.runs) > 1 else None

    def interval(self, metric: str) -> tuple[float, float]:
        """Return the lowest and the highest bound of any seed."""
        lows, highs = zip(*(run.intervals[metric] for run in self.runs))
        return min(lows), max(highs)

    def p_value(self, metric: str) -> float | None:
        """Return the largest p-value of any seed.

        It is 1 if seeds differ in direction, and small only if every seed shows the same difference.
        """
        tested = [run for run in self.runs if run.p_values]
        if len({run.gains[metric] > 0 for run in tested}) > 1:
            return 1.0
        return max((run.p_values[metric] for run in tested), default=None)

    def cost(self) -> tuple[str, str]:
        """Return parameters and seconds of training in words, "" if unknown."""
        parameters = {run.parameters for run in self.runs if run.parameters is not None}
        seconds = [run.seconds for run in self.runs if run.seconds is not None]
        return (
            f"{max(parameters) / 1e6:.1f} M" if parameters else "",
            f"{statistics.fmean(seconds):,.0f}" if seconds else "",
        )


def is_comparable(number: int, dataset: str, toy: bool) -> bool:
    """Return whether the paper's figures are for this dataset and these sizes."""
    return dataset == PAPER[str(number)]["dataset"] and not toy


def to_markdown(number: int, dataset: str, rows: list[Row], seeds: int, *, toy: bool = False) -> str:
    """Return the table as Markdown.

    The paper's scores are in parentheses if they can be compared, otherwise in a separate table.
    """
    table, comparable = PAPER[str(number)], is_comparable(number, dataset, toy)
    head = [*table["columns"], *LABELS.values()]
    for metric in TESTED:
        head += [f"{LABELS[metric]} 95 %", "p"]
    head += ["BLEU-4 with final period"] * (dataset in FINAL_PERIOD)
    head += ["parameters", "seconds"]
    num_labels = len(table["columns"])
    lines = [
        f"Table {number}: {table['title']}. Test split of {dataset}, "
        + "small models, " * toy
        + (f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed")
        + ("; in parentheses the paper's figures." if comparable else "."),
        "",
        _line(head),
        _line(["---"] * num_labels + ["---:"] * (len(head) - num_labels)),
        *(_line([*row.labels, *_cells(row, dataset, comparable)]) for row in rows),
        "",
    ]
    if not comparable:
        lines += [
            f"The paper's figures, on {table['dataset']} with full-size models: no reference for the above.",
            "",
            _line([*table["columns"], *LABELS.values()]),
            _line(["---"] * num_labels + ["---:"] * len(LABELS)),
            *(_line([*row.labels, *row.figures]) for row in rows),
            "",
        ]
    return "\n".join(lines + [f"- {note}" for note in _notes(number, rows, seeds)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row, dataset: str, comparable: bool) -> list[str]:
    cells = []
    for column, figure in zip(LABELS, row.figures):
        ours = "failed" if row.failed else "–"
        if row.runs:
            deviation = row.deviation(column)
            ours = f"{row.mean(column):.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
        cells.append(f"{ours} ({figure})" if comparable else ours)
    for metric in TESTED:
        p_value = row.p_value(metric)
        cells.append("{:.2f} to {:.2f}".format(*row.interval(metric)) if row.runs else "")
        cells.append("" if p_value is None else f"{p_value:.3f}")
    if dataset in FINAL_PERIOD:
        cells.append(f"{row.mean(WITH_PERIOD):.2f}" if row.runs else "")
    return [*cells, *row.cost()]


def _notes(number: int, rows: list[Row], seeds: int) -> list[str]:
    """Return the notes below a table."""
    table = PAPER[str(number)]
    names = [_name(table["columns"], row) for row in rows]
    notes = [
        "95 % and p: paired bootstrap over the clips of the test split (1,000 resamples); p is two-sided and "
        f"for the difference from {names[-1]}. Seconds: all training steps, with stage 1, without "
        "compilation and evaluation."
    ]
    if seeds > 1:
        notes.append("Each seed is tested separately; the widest bounds and the largest p are shown.")
    for name, row in zip(names, rows):
        if len(row.runs) < seeds:
            failed = f", {row.failed} failed ({row.reason})" if row.failed else ""
            notes.append(f"{name} ({row.experiment}): {len(row.runs)} of {seeds} runs{failed}.")
    if len({run.code for row in rows for run in row.runs}) > 1:
        code = {name: {one for run in row.runs for one in run.code} for name, row in zip(names, rows)}
        by_row = "; ".join(f"{name} by {', '.join(sorted(found))}" for name, found in code.items() if found)
        notes.append(f"Trained by different code (version and digest): {by_row}.")
    if all(row.runs for row in rows):
        places = range(len(rows))
        ours = sorted(places, key=lambda place: rows[place].mean("bleu4"))
        notes.append(f"By BLEU-4: {' < '.join(names[place] for place in ours)}.")
        printed = {place: row.paper_bleu4 for place, row in enumerate(rows) if row.paper_bleu4 is not None}
        papers = sorted(printed, key=printed.__getitem__)
        same = papers == [place for place in ours if place in printed]
        in_paper = " < ".join(names[place] for place in papers)
        notes.append("The paper has the same order." if same else f"In the paper: {in_paper}.")
    of_rows = [f"{name}: {row['note']}" for name, row in zip(names, table["rows"]) if "note" in row]
    return [*notes, *table.get("notes", []), *of_rows]


def to_csv(number: int, rows: list[Row]) -> str:
    """Return the table as CSV, with each score unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = [f"{column}_{what}" for column in LABELS for what in ("mean", "std", "paper")]
    parts += [f"{metric}_{what}" for metric in TESTED for what in ("low", "high", "p")]
    parts += [WITH_PERIOD, "parameters", "seconds"]
    writer.writerow([*PAPER[str(number)]["columns"], "experiment", "runs", *parts])
    for row in rows:
        cells: list[Any] = [*row.labels, row.experiment, len(row.runs)]
        printed: list[Any] = row.paper or [""] * len(LABELS)
        for column, paper in zip(LABELS, printed):
            cells += [row.mean(column), row.deviation(column), paper] if row.runs else ["", "", paper]
        for metric in TESTED:
            cells += [*row.interval(metric), row.p_value(metric)] if row.runs else ["", "", ""]
        scored = row.runs and all(WITH_PERIOD in run.scores for run in row.runs)
        cells += [row.mean(WITH_PERIOD) if scored else "", *row.cost()]
        writer.writerow(cells)
    return text.getvalue()


def draw(number: int, dataset: str, rows: list[Row], *, toy: bool = False) -> Figure:
    """Draw the BLEU-4 of each row.

    Our score is a bar with its interval, the paper's a diamond if the two can be compared.
    """
    table, comparable = PAPER[str(number)], is_comparable(number, dataset, toy)
    figure = Figure(figsize=(7, 1.3 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        if row.runs:
            mean, (low, high) = row.mean("bleu4"), row.interval("bleu4")
            axes.barh(place, mean, color="#9db8d2", height=0.6, zorder=1)
            axes.hlines(place, low, high, color="#2f4b66", linewidth=1.5, zorder=2)
            seeds = [run.scores["bleu4"] for run in row.runs]
            axes.plot(seeds, [place] * len(seeds), "o", color="#2f4b66", markersize=4, zorder=3)
        else:
            axes.text(0, place, " failed" if row.failed else " not trained", va="center", color="#777777")
        if comparable and (paper := row.paper_bleu4) is not None:
            axes.plot(paper, place, "D", color="#d1495b", markersize=6, zorder=4)
    axes.set_yticks(range(len(rows)), [_name(table["columns"], row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0)
    axes.set_xlabel(
        "BLEU-4 on test. Bars: mean; dots: seeds; lines: 95 %" + "; diamonds: the paper's" * comparable,
        fontsize=8,
    )
    axes.set_title(f"Table {number} on {dataset}{TOY * toy}: {table['title']}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _name(columns: list[str], row: Row) -> str:
    """Return the row's labels joined; "yes" becomes its column's name."""
    named = [column if label == "yes" else label for column, label in zip(columns, row.labels) if label]
    return " + ".join(named) or "none"
