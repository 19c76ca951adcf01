"""The training curves of the rows of tables."""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslssaw_jax.errors import ends_in_one_line, set_up_output
from sslssaw_jax.tables import BASES, PAPER, TOY
from sslssaw_jax.workdir import LOG, picture_path, read_log, user_path

Points = list[tuple[int, float, float]]  # step, accuracy, seconds of a step
Curves = dict[str, list[Points]]  # for each row, its seeds
COLUMNS = 2
FOLDERS = {
    number: [
        f"{base}{end}_{row['experiment']}"
        for base in BASES.values()
        for end in ("", TOY)
        for row in table["rows"]
    ]
    for number, table in PAPER.items()
}
"""Number of each table -> the names of its rows' folders."""


def read_curves(workdir: Path) -> Curves:
    """Read the stage 2 logs of all rows of tables."""
    curves: Curves = {}
    for log in sorted(workdir.glob(f"seed*/*/{LOG}")):
        rows = [row for row in read_log(log) if row["stage"] == "translate" and "loss_sentence" in row]
        if rows and any(log.parent.name in names for names in FOLDERS.values()):
            points = [(row["step"], 100 * row["accuracy"], row["step_time"]) for row in rows]
            curves.setdefault(log.parent.name, []).append(points)
    return curves


def draw(curves: Curves) -> Figure:
    """Draw a panel for each table with a row in `curves`.

    Tables with the same rows share a panel.
    """
    tables: dict[tuple[str, ...], list[str]] = {}
    for number, folders in FOLDERS.items():
        if shown := tuple(name for name in folders if name in curves):
            tables.setdefault(shown, []).append(number)
    high = math.ceil(len(tables) / COLUMNS)
    figure = Figure(figsize=(10, 3 * high), layout="constrained")
    panels = figure.subplots(high, COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    for (names, numbers), panel in zip(tables.items(), panels):  # takes no panel after the last table
        panel.set_title(f"Table {', '.join(numbers)}", loc="left", fontsize=11)
        for name in names:
            _plot(panel, name, curves[name])
        panel.legend(loc="lower right", frameon=False, fontsize=8)
    for panel in panels:  # the iterator is at the first unused panel
        panel.set_visible(False)
    figure.supxlabel("step of stage 2")
    figure.supylabel("target tokens predicted correctly in training, %")
    return figure


def _plot(axes: Axes, name: str, seeds: list[Points]) -> None:
    by_step = list(zip(*([accuracy for _, accuracy, _ in points] for points in seeds)))
    steps = [step for step, _, _ in seeds[0]][: len(by_step)]
    (line,) = axes.plot(steps, [statistics.fmean(values) for values in by_step], label=name)
    low, high = map(min, by_step), map(max, by_step)
    axes.fill_between(steps, [*low], [*high], color=line.get_color(), alpha=0.12)
    axes.spines[["top", "right"]].set_visible(False)


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m sslssaw_jax.tables.curves",
        description="Draw the accuracy in training of the rows of tables, with a panel for each table: the "
        "mean over seeds, a band from the lowest to the highest seed. Print each row's seconds per step.",
        epilog="Example: python -m sslssaw_jax.tables.curves --workdir=runs/tables --out=curves.png",
    )
    parser.add_argument(
        "--workdir", type=user_path, required=True, help="folder of the tables, such as runs/tables"
    )
    parser.add_argument(
        "--out", type=picture_path, required=True, help="path of the picture, such as curves.png"
    )
    options = parser.parse_args(arguments)
    curves = read_curves(options.workdir)
    if not curves:
        raise SystemExit(f"error: {options.workdir} holds no seed*/ROW/{LOG} with stage 2 of a table's row")
    draw(curves).savefig(options.out, dpi=120)
    print("| row | seeds | steps | seconds a step |\n| --- | ---: | ---: | ---: |")
    for name, seeds in curves.items():
        times = [seconds for points in seeds for _, _, seconds in points]
        print(f"| {name} | {len(seeds)} | {seeds[0][-1][0]:,} | {statistics.median(times):.2f} |")


if __name__ == "__main__":
    set_up_output()
    main()
