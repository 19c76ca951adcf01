"""A table of the paper: `python -m sslssaw_jax.tables --table=4 --dataset=avatar_qa --workdir=W`.

Each row is an experiment of `configs/ablations.py`, run with `run.py` in a process of its own in
`W/seed<n>/<experiment>`: what is finished there is not trained again, what is unfinished goes on, and a row
that fails leaves the others alone. Rows of one seed share their stage 1, and tables their rows.
"""

import argparse
import csv
import io
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sslssaw_jax.logs import write_text

ROOT = Path(__file__).parent.parent
BASES = {"avatar_qa": "demo", "phoenix2014t_qa": "phoenix", "csl_daily_qa": "csl_daily"}
COLUMNS = {"bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4", "rouge_l": "ROUGE-L"}
PAPER = json.loads(Path(__file__).with_name("paper_tables.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Row:
    """One row: what the paper says, and what each seed has reached on the test split."""

    labels: list[str]
    experiment: str
    paper: list[float] | None  # in the order of COLUMNS; None: the paper has no such row on this dataset
    runs: list[dict[str, float]]  # by seed; those that failed are left out

    def mean(self, column: str) -> float:
        return statistics.fmean(run[column] for run in self.runs)

    def deviation(self, column: str) -> float | None:
        """The sample's standard deviation; None from a single run."""
        return statistics.stdev(run[column] for run in self.runs) if len(self.runs) > 1 else None

    def cell(self, column: str) -> str:
        if not self.runs:
            return "failed"
        deviation = self.deviation(column)
        return f"{self.mean(column):.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def make_table(
    number: int, dataset: str, workdir: Path, *, seeds: int = 1, run_flags: Sequence[str] = ()
) -> list[Row]:
    """Trains what is missing of a table, and writes `table<number>.<dataset>.{md,csv,png}` into `workdir`.

    Args:
        number: of the paper's table, 1 to 7.
        dataset: a key of `BASES`.
        workdir: holds a folder a seed, and in it one a row.
        seeds: each row is trained with the seeds 0 to `seeds` - 1.
        run_flags: more flags of `run.py`, the same for all rows.
    """
    table = PAPER[str(number)]
    rows = []
    for known in table["rows"]:
        runs = [_scores(known["experiment"], dataset, workdir, seed, run_flags) for seed in range(seeds)]
        paper = known["paper"].get(dataset)
        done = [run for run in runs if run is not None]
        rows.append(Row(known["labels"], known["experiment"], paper, done))
    stem = workdir / f"table{number}.{dataset}"
    write_text(stem.with_name(f"{stem.name}.md"), to_markdown(number, dataset, rows, seeds))
    write_text(stem.with_name(f"{stem.name}.csv"), to_csv(number, rows))
    draw(number, dataset, rows).savefig(stem.with_name(f"{stem.name}.png"), dpi=150)
    return rows


def _scores(
    experiment: str, dataset: str, workdir: Path, seed: int, run_flags: Sequence[str]
) -> dict[str, float] | None:
    """The test scores of a row with one seed, trained where they are missing; None where that fails."""
    run = workdir / f"seed{seed}" / experiment
    metrics = run / "metrics.json"
    if not metrics.exists():  # written last
        command = [sys.executable, "run.py", f"--config=configs/ablations.py:{BASES[dataset]}/{experiment}"]
        command += [f"--workdir={run.absolute()}", f"--config.seed={seed}", *run_flags]
        print(shlex.join(command), flush=True)
        run.mkdir(parents=True, exist_ok=True)
        with (run / "run.log").open("a", encoding="utf-8") as log:
            failed = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
        if failed:
            print(f"{experiment}, seed {seed}: failed; {run / 'run.log'} ends with", file=sys.stderr)
            print(_last_lines(run / "run.log"), file=sys.stderr)
            return None
    return json.loads(metrics.read_text(encoding="utf-8"))["test"]


def _last_lines(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8").splitlines()[-5:])


def to_markdown(number: int, dataset: str, rows: list[Row], seeds: int) -> str:
    """The table in the paper's layout; the paper's own figures stand below ours."""
    table = PAPER[str(number)]
    head = [*table["columns"], *COLUMNS.values()]
    lines = [
        f"Table {number}: {table['title']}. Test split of {dataset}, "
        + (f"mean ± standard deviation of {seeds} seeds." if seeds > 1 else "one seed."),
        "",
        _line(head),
        _line(["---"] * len(table["columns"]) + ["---:"] * len(COLUMNS)),
    ]
    lines += [_line([*row.labels, *map(row.cell, COLUMNS)]) for row in rows]
    if any(row.paper for row in rows):
        lines += ["", f"The same in the paper (its Table {number}):", "", *lines[2:4]]
        lines += [_line([*row.labels, *(f"{x:.2f}" for x in row.paper)]) for row in rows if row.paper]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_csv(number: int, rows: list[Row]) -> str:
    """One line a row: its labels, the runs' number, and mean, deviation and the paper's figure a column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = [f"{column}_{what}" for column in COLUMNS for what in ("mean", "std", "paper")]
    writer.writerow([*PAPER[str(number)]["columns"], "experiment", "runs", *parts])
    for row in rows:
        cells: list[Any] = [*row.labels, row.experiment, len(row.runs)]
        for place, column in enumerate(COLUMNS):
            mean = row.mean(column) if row.runs else ""
            deviation = row.deviation(column) if row.runs else None
            cells += [mean, "" if deviation is None else deviation, row.paper[place] if row.paper else ""]
        writer.writerow(cells)
    return text.getvalue()


def draw(number: int, dataset: str, rows: list[Row]) -> Figure:
    """BLEU-4 of each row as a bar, with its deviation, and the paper's as a mark."""
    columns = PAPER[str(number)]["columns"]
    figure = Figure(figsize=(7, 1.1 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        if row.runs:
            axes.barh(place, row.mean("bleu4"), xerr=row.deviation("bleu4"), color="#4878a8", height=0.6)
        if row.paper:
            axes.plot(row.paper[list(COLUMNS).index("bleu4")], place, "D", color="#d1495b", markersize=6)
    axes.set_yticks(range(len(rows)), [_name(columns, row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0)
    axes.set_xlabel("BLEU-4 on test: ours" + (" (bars), the paper's (diamonds)" if rows[0].paper else ""))
    axes.set_title(f"Table {number} on {dataset}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _name(columns: list[str], row: Row) -> str:
    if len(columns) == 1:
        return row.labels[0]
    named = [column if label == "yes" else label for column, label in zip(columns, row.labels) if label]
    return " + ".join(named) or "none"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sslssaw_jax.tables",
        description="Trains what is missing of a table of the paper and writes the table.",
        epilog="What follows -- goes to run.py, such as --config.data.data_dir=/data.",
    )
    parser.add_argument("--table", type=int, required=True, choices=sorted(map(int, PAPER)))
    parser.add_argument("--dataset", required=True, choices=BASES)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each row, default 1")
    parser.add_argument("run_flags", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds}: at least one is needed")
    rows = make_table(
        options.table, options.dataset, options.workdir, seeds=options.seeds, run_flags=options.run_flags
    )
    print(to_markdown(options.table, options.dataset, rows, options.seeds))
    if failed := [row.experiment for row in rows if len(row.runs) < options.seeds]:
        raise SystemExit(f"error: not all runs of {', '.join(failed)} have ended; run the same command again")


if __name__ == "__main__":
    main()
