"""Training curves as inline SVG; the page's style sheet has their colours and width."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from sslssaw_jax.report.html import render
from sslssaw_jax.workdir import CHECKPOINTS, LOG, read_log, read_scores

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 8, 24
MOST_POINTS = 300  # of a curve; longer ones are averaged
STAGES = {
    "warm_start": "Warm start",
    "recognize": "Recognition",
    "gloss2text": "Glosses to text",
    "pretrain": "Stage 1",
    "translate": "Stage 2",
}
SCORES = {"bleu4": "BLEU-4", "rouge_l": "ROUGE-L", "wer": "WER"}


class Curve(NamedTuple):
    """A line, with a dot at each point if `dotted`."""

    name: str
    points: Sequence[tuple[float, float]]  # step, value
    dotted: bool = False


def training_curves(workdirs: Sequence[Path]) -> list[Markup]:
    """Draw the losses and dev scores of the stages in `workdirs`."""
    figures = []
    for workdir in workdirs:
        log = read_log(workdir / LOG)
        dev = [{"step": step, **found} for step, found in sorted(read_scores(workdir / CHECKPOINTS).items())]
        for stage in dict.fromkeys(row["stage"] for row in log):
            rows = [row for row in log if row["stage"] == stage]
            parts = sorted(key for key in rows[-1] if key.startswith("loss"))
            losses = [Curve(key.replace("_", " "), _points(rows, key)) for key in parts]
            losses.append(Curve("loss on dev", _points(dev, "loss"), dotted=True))
            scores = [Curve(label, _points(dev, key), dotted=True) for key, label in SCORES.items()]
            name = STAGES.get(stage, stage)
            figures += [draw_curves(f"{name}: loss", losses), draw_curves(f"{name}: scores on dev", scores)]
    return [figure for figure in figures if figure]


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def draw_curves(title: str, curves: Sequence[Curve]) -> Markup:
    """Draw at most six curves; return "" if there are no points."""
    curves = [curve for curve in curves if len(curve.points)]
    if not curves:
        return Markup()
    points = np.concatenate([np.array(curve.points, float) for curve in curves])
    (x_low, y_low), (x_high, y_high) = points.min(axis=0), points.max(axis=0)
    x_ticks = MaxNLocator(4, integer=True).tick_values(min(0, x_low), x_high)
    y_ticks = MaxNLocator(5).tick_values(min(0, y_low), y_high)
    x_low, x_high = min(0, x_low), max(x_high, 1)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def x(value: float) -> float:
        return round(LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    return render(
        "curves.html",
        title=title,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        x_ticks=[(x(tick), f"{tick:,.0f}") for tick in x_ticks if x_low <= tick <= x_high],
        y_ticks=[(y(tick), f"{tick:,g}") for tick in y_ticks],
        ends="; ".join(f"{name} from {ends[0][1]:.3g} to {ends[-1][1]:.3g}" for name, ends, _ in curves),
        curves=[(curve, [(x(a), y(b)) for a, b in _thinned(curve.points)]) for curve in curves],
    )


def _thinned(points: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """Average the points within at most `MOST_POINTS` stretches."""
    stretches = np.array_split(np.array(points, float), min(len(points), MOST_POINTS))
    return [stretch.mean(axis=0) for stretch in stretches]
