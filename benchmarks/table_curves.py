"""Curves of the rows of tables: `python -m benchmarks.table_curves --workdir=W --out=curves.png`.

`W` is the workdir of `python -m sslssaw_jax.tables`. A line is the mean over the seeds of the share of target
tokens that a row guesses right in training, and the band behind it spans the seeds. What rows took is
printed.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sslssaw_jax.logs import read_log


def read_curves(workdir: Path) -> dict[str, list[list[tuple[int, float, float]]]]:
    """By row and seed: step, accuracy, and the seconds of a step."""
    curves: dict[str, list[list[tuple[int, float, float]]]] = {}
    for log in sorted(workdir.glob("seed*/*/log.jsonl")):
        rows = [row for row in read_log(log) if row["stage"] == "translate" and "loss_sentence" in row]
        if rows:
            points = [(row["step"], 100 * row["accuracy"], row["step_time"]) for row in rows]
            curves.setdefault(log.parent.name, []).append(points)
    return curves


def draw(curves: dict[str, list[list[tuple[int, float, float]]]]) -> Figure:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, seeds in curves.items():
        steps = [step for step, _, _ in seeds[0]]
        by_step = list(zip(*([accuracy for _, accuracy, _ in points] for points in seeds)))
        (line,) = axes.plot(
            steps[: len(by_step)], [statistics.fmean(values) for values in by_step], label=name
        )
        low, high = map(min, by_step), map(max, by_step)
        axes.fill_between(steps[: len(by_step)], [*low], [*high], color=line.get_color(), alpha=0.12)
    axes.set_xlabel("step of stage 2")
    axes.set_ylabel("target tokens guessed right in training, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table_curves", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    curves = read_curves(options.workdir)
    if not curves:
        raise SystemExit(f"error: {options.workdir} holds no seed*/ROW/log.jsonl of stage 2")
    draw(curves).savefig(options.out, dpi=120)
    print("| row | seeds | steps | seconds a step |\n| --- | ---: | ---: | ---: |")
    for name, seeds in curves.items():
        times = [seconds for points in seeds for _, _, seconds in points]
        print(f"| {name} | {len(seeds)} | {seeds[0][-1][0]:,} | {statistics.median(times):.2f} |")


if __name__ == "__main__":
    main()
