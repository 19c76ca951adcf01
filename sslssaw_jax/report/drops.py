"""Bars for what a sentence depends on: its loss without each word or stretch of video."""

from collections.abc import Sequence

import numpy as np
import wcwidth
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslssaw_jax.evaluation.explanation import Explanation
from sslssaw_jax.report.text_layout import labelled_lines

HIGHLIGHT, PLAIN, QUIET = "#e8112d", "#7f8ca3", "0.35"
HEADROOM = 1.25  # of the highest bar, for its number

# inches
MARGIN = 0.3
HEADING, BARS = 0.3, 0.85
TICKS = 0.45  # below the bars, for seconds
FRAME = 0.9  # the greatest height of a frame
GAP = 0.2  # between words and video
BETWEEN = 0.25  # answers
UNIT = 0.9  # the width of the text next to the bars
LINE, NAME, CHARACTER = 0.23, 0.95, 0.087  # of the texts: height, width of a name, width of a character
WIDTH = 9.1

WORDS_SHARE = 0.5  # of the width, if nothing else says where the video begins
POINTS = 72  # an inch
LETTER = 0.68  # average width of a wide letter, in font sizes
LONGEST = 30  # letters of a label
FONT_SIZE = 9.0


def draw_explanations(answers: Sequence[tuple[str, Explanation]], frames: np.ndarray) -> Figure:
    """Draw what each of the sentences about one clip depends on.

    Args:
        answers: Questions with the explanations of their sentences.
        frames: `u8[k, h, w, 3]`, RGB, evenly spaced over the clip; empty for a model without video.
    """
    width = WIDTH - 2 * MARGIN - UNIT
    characters = int((WIDTH - 2 * MARGIN - NAME) / CHARACTER)
    last = len(answers) - 1
    blocks = []
    for number, (question, explanation) in enumerate(answers):
        edge = WORDS_SHARE * width if explanation.words else 0.0
        shown = frames if number == last else frames[:0]
        lines = labelled_lines({"Question": question, "Sentence": explanation.sentence}, characters)
        height = LINE * len(lines) + drops_height(explanation, shown, edge, width)
        blocks.append((lines, explanation, shown, edge, height))
    top = MARGIN + sum(height for *_, height in blocks) + BETWEEN * last
    figure = Figure(figsize=(WIDTH, top + MARGIN))
    for lines, explanation, shown, edge, height in blocks:
        write_lines(figure, lines, top)
        draw_drops(figure, explanation, shown, top - height, edge, width)
        top -= height + BETWEEN
    return figure


def drops_height(explanation: Explanation, frames: np.ndarray, edge: float, width: float) -> float:
    """Return the height of `draw_drops` in inches."""
    below = TICKS + _frame_size(frames, width - edge)[1]
    words = [part.word for part in explanation.words]
    if words and not _fit(words, edge or width):
        below = max(below, *(label_width(word) + 0.1 for word in words))
    return HEADING + BARS + below


def draw_drops(
    figure: Figure, explanation: Explanation, frames: np.ndarray, bottom: float, edge: float, width: float
) -> None:
    """Draw bars for words and stretches, red for the highest of each.

    Args:
        figure: The figure to draw in.
        explanation: Of a sentence.
        frames: `u8[k, h, w, 3]`, RGB, to draw below the stretches; may be empty.
        bottom: Inches; the drawing takes `drops_height` above it.
        edge: Inches from the left margin to the place where the words end and the video begins.
        width: Inches from the left margin to the end of the video.
    """
    bottom += drops_height(explanation, frames, edge, width) - HEADING - BARS
    drops = [*(part.drop for part in explanation.words), *(part.drop for part in explanation.stretches)]
    limits = min([0.0, *drops]), HEADROOM * max([1e-3, *drops])
    if explanation.words:
        words = [part.word for part in explanation.words]
        axes = place(figure, MARGIN, bottom, (edge or width) - GAP, BARS)
        centres = np.arange(len(words)) + 0.5
        _bars(axes, centres, 0.75, [part.drop for part in explanation.words], limits, "without the word")
        axes.set_xlim(0, len(words))
        labels, rotation = [shorten(word) for word in words], 0 if _fit(words, edge or width) else 90
        axes.set_xticks(centres, labels, rotation=rotation, fontsize=FONT_SIZE)
        for label in axes.get_xticklabels():
            label.set_parse_math(False)
    if explanation.stretches:
        edges = np.array([*(part.start for part in explanation.stretches), explanation.stretches[-1].stop])
        axes = place(figure, MARGIN + edge, bottom, width - edge, BARS)
        sizes, centres = 0.9 * np.diff(edges), (edges[1:] + edges[:-1]) / 2
        heading = "without the stretch of video"
        _bars(axes, centres, sizes, [part.drop for part in explanation.stretches], limits, heading)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xticks(edges, [f"{place:.1f}" for place in edges])
        axes.set_xlabel("seconds", fontsize=8, color=QUIET, labelpad=1)
    wide, high = _frame_size(frames, width - edge)
    for number, frame in enumerate(frames):
        slot = (width - edge) / len(frames)
        left = MARGIN + edge + (number + 0.5) * slot - wide / 2
        picture = place(figure, left, bottom - TICKS - high, wide, high)
        picture.imshow(frame, aspect="auto")
        picture.set_axis_off()
    figure_width, figure_height = figure.get_size_inches()
    figure.text(
        (MARGIN + width + 0.15) / figure_width,
        (bottom + BARS / 2) / figure_height,
        "loss in\nlog-\nprobability",
        fontsize=8,
        color=QUIET,
        va="center",
    )


def _frame_size(frames: np.ndarray, width: float) -> tuple[float, float]:
    """Return the width and height of frames in a row, in inches."""
    if not len(frames):
        return 0.0, 0.0
    high, wide = frames.shape[1:3]
    scale = min(0.94 * width / len(frames) / wide, FRAME / high)
    return scale * wide, scale * high


def _fit(words: Sequence[str], width: float) -> bool:
    """Return whether words fit side by side below their bars."""
    return all(label_width(word) < (width - GAP) / len(words) for word in words)


def place(figure: Figure, left: float, bottom: float, wide: float, high: float) -> Axes:
    """Add axes at a place given in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, wide / width, high / height))


def write_lines(figure: Figure, lines: Sequence[tuple[str, str]], top: float) -> None:
    """Write lines with their names, downwards from a height in inches."""
    width, height = figure.get_size_inches()
    for number, (name, line) in enumerate(lines):
        y = (top - (number + 0.5) * LINE) / height
        figure.text(MARGIN / width, y, name, weight="bold", fontsize=10, va="center")
        figure.text((MARGIN + NAME) / width, y, line, fontsize=10, va="center", parse_math=False)


def shorten(word: str) -> str:
    """Return a word as a label, cut if it is too long."""
    return word if len(word) <= LONGEST else f"{word[: LONGEST - 1]}…"


def label_width(word: str, fontsize: float = FONT_SIZE) -> float:
    """Return an upper estimate of a label's width in inches."""
    return wcwidth.width(shorten(word)) * LETTER * fontsize / POINTS


def _bars(
    axes: Axes,
    centres: np.ndarray,
    widths: float | np.ndarray,
    drops: list[float],
    limits: tuple[float, float],
    heading: str,
) -> None:
    highest = int(np.argmax(drops))
    colours = [HIGHLIGHT if number == highest else PLAIN for number in range(len(drops))]
    bars = axes.bar(centres, drops, widths, color=colours)
    numbers = [f"{drop:.1f}" if number == highest and drop > 0 else "" for number, drop in enumerate(drops)]
    axes.bar_label(bars, numbers, fontsize=8, color=HIGHLIGHT, padding=1)
    axes.set_ylim(limits)
    axes.set_yticks([])
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.tick_params(labelsize=8, length=2, pad=2)
    axes.spines[:].set_visible(False)
    axes.annotate(
        heading,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=9,
        color=QUIET,
    )
