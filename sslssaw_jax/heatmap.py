"""The SSAW gate of one clip as a picture (Fig. 4): where the fusion lets question and video through."""

from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslssaw_jax.lettering import columns, fonts_for, wrap

COLOURS = "magma"  # dark to bright
DPI = 110

# Inches.
MARGIN = 0.3
STRIP = 0.6
HEADING = 0.35
LABELS = 1.15  # the tokens, and beside them the frames
COLOURBAR = 0.9  # with its numbers
LINE = 0.23  # of the text
MIN_CELL, MAX_WIDTH, MIN_WIDTH = 0.17, 24.0, 9.0
MIN_FRAME = 0.75
POINTS = 72  # an inch


def save_heatmap(
    path: str | Path,
    *,
    tokens: list[str],
    gate: np.ndarray,
    frames: np.ndarray,
    question: str,
    target: str,
    prediction: str,
) -> None:
    """Writes `draw_heatmap` to `path` as a PNG; makes its folder where there is none."""
    with fonts_for(question, target, prediction):
        figure = draw_heatmap(
            tokens=tokens, gate=gate, frames=frames, question=question, target=target, prediction=prediction
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def draw_heatmap(
    *, tokens: list[str], gate: np.ndarray, frames: np.ndarray, question: str, target: str, prediction: str
) -> Figure:
    """One strip of colour, a cell a position: the question's tokens, a dashed line, the video's positions.

    The brighter, the higher the weight; colours span the clip's own lowest to highest weight, since a gate
    rarely uses all of (0, 1).

    Args:
        tokens: the question's pieces; SentencePiece's word mark is not shown.
        gate: `[len(tokens) + T]`, the gate's mean over features at each position, without padding.
        frames: `u8[k, h, w, 3]`, RGB, evenly spaced over the clip.
        question: the question as it was asked; it and the reference are left out where they are empty.
        target: the reference.
        prediction: what the model said.

    Raises:
        ValueError: `gate` has no position of the video.
    """
    num_positions = len(gate) - len(tokens)
    if gate.ndim != 1 or num_positions < 1:
        raise ValueError(f"a gate of shape {gate.shape} has no video behind {len(tokens)} question tokens")

    cell = max(
        MIN_CELL,
        (MIN_WIDTH - 2 * MARGIN - COLOURBAR) / len(gate),
        MIN_FRAME * len(frames) / num_positions,
    )
    strip_width = min(cell * len(gate), MAX_WIDTH - 2 * MARGIN - COLOURBAR)
    cell = strip_width / len(gate)
    width = strip_width + COLOURBAR + 2 * MARGIN
    texts = {"Question": question, "Reference": target, "Prediction": prediction}
    lines = _lines({name: text for name, text in texts.items() if text or name == "Prediction"}, width)
    height = 2 * MARGIN + len(lines) * LINE + HEADING + STRIP + LABELS
    figure = Figure(figsize=(width, height))

    def axes(left: float, bottom: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, bottom / height, wide / width, high / height))

    strip = axes(MARGIN, MARGIN + LABELS, strip_width, STRIP)
    image = strip.imshow(gate[None], cmap=COLOURS, aspect="auto", interpolation="nearest")
    _label_tokens(strip, tokens, cell)
    _divide(strip, len(tokens), num_positions)
    colourbar_axes = axes(MARGIN + strip_width + 0.15, MARGIN + LABELS, 0.14, STRIP)
    colourbar = figure.colorbar(image, cax=colourbar_axes, ticks=[gate.min(), gate.max()], format="%.3f")
    colourbar.ax.tick_params(labelsize=8, length=0)
    colourbar.ax.set_title("gate", fontsize=9, color="0.35", loc="left", pad=8)
    colourbar.outline.set_visible(False)

    frames_left, frames_width = MARGIN + len(tokens) * cell, num_positions * cell
    for i, frame in enumerate(frames):
        slot = frames_width / len(frames)
        side = min(slot * 0.94, (LABELS - 0.1) * frame.shape[1] / frame.shape[0])
        high = side * frame.shape[0] / frame.shape[1]
        left = frames_left + (i + 0.5) * slot - side / 2
        picture = axes(left, MARGIN + LABELS - 0.1 - high, side, high)
        picture.imshow(frame, aspect="auto")
        picture.set_axis_off()
    for i, (name, line) in enumerate(lines):
        y = 1 - (MARGIN + (i + 0.5) * LINE) / height
        figure.text(MARGIN / width, y, name, weight="bold", fontsize=10, va="center")
        figure.text((MARGIN + 0.95) / width, y, line, fontsize=10, va="center", parse_math=False)
    return figure


def _lines(texts: dict[str, str], width: float) -> list[tuple[str, str]]:
    """Each text in lines that fit the figure; its name stands before the first."""
    lines = []
    for name, text in texts.items():
        first, *rest = wrap(text, int((width - 2 * MARGIN - 0.95) / 0.087))
        lines += [(name, first)] + [("", line) for line in rest]
    return lines


def _label_tokens(strip: Axes, tokens: list[str], cell: float) -> None:
    words = [token.replace("▁", "") for token in tokens]
    fontsize = min(9.0, 0.75 * cell * POINTS)
    fits = max(map(columns, words), default=0) * 0.68 * fontsize < cell * POINTS
    strip.set_xticks(range(len(words)), words, rotation=0 if fits else 90, fontsize=fontsize)
    for label in strip.get_xticklabels():
        label.set_parse_math(False)
    strip.set_yticks([])
    strip.tick_params(length=2, pad=2)
    strip.spines[:].set_visible(False)


def _divide(strip: Axes, num_tokens: int, num_positions: int) -> None:
    """The dashed line between question and video, and a heading over each."""
    edge = num_tokens - 0.5
    headings = {"video positions": edge + num_positions / 2}
    if num_tokens:
        headings["question tokens"] = (num_tokens - 1) / 2
        (line,) = strip.plot([edge, edge], [-0.75, 0.5], color="black", linestyle="--", clip_on=False)
        line.set_path_effects([patheffects.Stroke(linewidth=3, foreground="white"), patheffects.Normal()])
    for heading, centre in headings.items():
        strip.annotate(
            heading,
            (centre, -0.5),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color="0.35",
        )
    strip.set_xlim(-0.5, edge + num_positions)
    strip.set_ylim(0.5, -0.5)
