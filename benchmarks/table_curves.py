"""Curves of the rows of tables: `python -m benchmarks.table_curves --workdir=W --out=curves.png`.

`W` is the workdir of `python -m sslssaw_jax.tables`. A line is the mean over the seeds of the share of target
tokens that a row guesses right in training, and the band behind it spans the seeds; each table has a panel.
What rows took is printed.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslssaw_jax.tables.__main__ import BASES
from sslssaw_jax.tables.layout import PAPER
from sslssaw_jax.workdir import read_log

Points = list[tuple[int, float, float]]  # step, accuracy, and the seconds of a step
Curves = dict[str, list[Points]]  # of each row, its seeds
COLUMNS = 2
TABLES = {  # number -> the folders of its rows
    number: [f"{base}_{row['experiment']}" for base in BASES.values() for row in table["rows"]]
    for number, table in PAPER.items()
}


def read_curves(workdir: Path) -> Curves:
    curves: Curves = {}
    for log in sorted(workdir.glob("seed*/*/log.jsonl")):
        rows = [row for row in read_log(log) if row["stage"] == "translate" and "loss_sentence" in row]
        if rows and any(log.parent.name in names for names in TABLES.values()):
            points = [(row["step"], 100 * row["accuracy"], row["step_time"]) for row in rows]
            curves.setdefault(log.parent.name, []).append(points)
    return curves


def draw(curves: Curves) -> Figure:
    """A panel a table, of those that have a row here."""
    tables: dict[tuple[str, ...], list[str]] = {}  # 1 and 2 have the same rows
    for number, names in TABLES.items():
        if shown := tuple(name for name in names if name in curves):
            tables.setdefault(shown, []).append(number)
    high = math.ceil(len(tables) / COLUMNS)
    figure = Figure(figsize=(10, 3 * high), layout="constrained")
    panels = figure.subplots(high, COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    for panel, (names, numbers) in zip(panels, tables.items()):
        panel.set_title(f"Table {', '.join(numbers)}", loc="left", fontsize=11)
        for name in names:
            _plot(panel, name, curves[name])
        panel.legend(loc="lower right", frameon=False, fontsize=8)
    for panel in panels:  # those that are left
        panel.set_visible(False)
    figure.supxlabel("step of stage 2")
    figure.supylabel("target tokens guessed right in training, %")
    return figure


def _plot(axes: Axes, name: str, seeds: list[Points]) -> None:
    by_step = list(zip(*([accuracy for _, accuracy, _ in points] for points in seeds)))
    steps = [step for step, _, _ in seeds[0]][: len(by_step)]
    (line,) = axes.plot(steps, [statistics.fmean(values) for values in by_step], label=name)
    low, high = map(min, by_step), map(max, by_step)
    axes.fill_between(steps, [*low], [*high], color=line.get_color(), alpha=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table_curves", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    curves = read_curves(options.workdir)
    if not curves:
        raise SystemExit(f"error: {options.workdir} holds no seed*/ROW/log.jsonl of stage 2 of a table's row")
    draw(curves).savefig(options.out, dpi=120)
    print("| row | seeds | steps | seconds a step |\n| --- | ---: | ---: | ---: |")
    for name, seeds in curves.items():
        times = [seconds for points in seeds for _, _, seconds in points]
        print(f"| {name} | {len(seeds)} | {seeds[0][-1][0]:,} | {statistics.median(times):.2f} |")


if __name__ == "__main__":
    main()
