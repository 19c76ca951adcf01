"""The curves of trainings as inline SVG, whose colours and width are those of the page."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from sslssaw_jax.training.checkpoints import SCORE
from sslssaw_jax.workdir import CHECKPOINTS, LOG, read_log, read_scores

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 42, 10, 8, 24
MOST_POINTS = 300  # of a curve: more are averaged
STAGES = {"warm_start": "Warm start", "pretrain": "Stage 1", "translate": "Stage 2"}


class Curve(NamedTuple):
    """A line; `dotted` ones have a dot at each point."""

    name: str
    points: Sequence[tuple[float, float]]  # step, value
    dotted: bool = False


def training_curves(workdirs: Sequence[Path]) -> str:
    """Losses and dev scores of the stages that were trained in `workdirs`; "" where none was."""
    figures = []
    for workdir in workdirs:
        log = read_log(workdir / LOG)
        dev = [{"step": step, **found} for step, found in sorted(read_scores(workdir / CHECKPOINTS).items())]
        for stage in dict.fromkeys(row["stage"] for row in log):
            rows = [row for row in log if row["stage"] == stage]
            parts = sorted(key for key in rows[-1] if key.startswith("loss"))
            losses = [Curve(key.replace("_", " "), _points(rows, key)) for key in parts]
            losses.append(Curve("loss on dev", _points(dev, "loss"), dotted=True))
            scores = [
                Curve(label, _points(dev, key), dotted=True)
                for key, label in ((SCORE, "BLEU-4"), ("rouge_l", "ROUGE-L"))
            ]
            name = STAGES.get(stage, stage)
            figures += [draw_curves(f"{name}: loss", losses), draw_curves(f"{name}: scores on dev", scores)]
    return "".join(figures)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def draw_curves(title: str, curves: Sequence[Curve]) -> str:
    """A figure with at most four curves, told apart by colour and by their dashes; "" without any point."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
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

    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:,g}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            anchor = "end" if x(tick) > WIDTH - RIGHT - 15 else "middle"
            parts.append(f'<text x="{x(tick)}" y="{HEIGHT - 6}" text-anchor="{anchor}">{tick:,.0f}</text>')
    for place, curve in enumerate(curves):
        thinned = _thinned(curve.points)
        line = " ".join(f"{x(step)},{y(value)}" for step, value in thinned)
        parts.append(f'<polyline class="series s{place}" points="{line}"/>')
        if curve.dotted:
            parts += [f'<circle class="dot s{place}" cx="{x(a)}" cy="{y(b)}" r="3"/>' for a, b in thinned]
    legend = "".join(
        f'<span class="legend"><svg width="26" height="8" aria-hidden="true">'
        f'<line class="series s{place}" x1="0" x2="26" y1="4" y2="4"/></svg>{html.escape(curve.name)}</span>'
        for place, curve in enumerate(curves)
    )
    return (
        f'<figure><h3>{html.escape(title)}</h3><svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)} over training steps">{"".join(parts)}</svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The means of at most `MOST_POINTS` stretches of points."""
    stretches = np.array_split(np.array(points, float), min(len(points), MOST_POINTS))
    return [tuple(stretch.mean(axis=0)) for stretch in stretches]
