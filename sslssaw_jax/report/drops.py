"""Bars of what a sentence hangs on: its loss without each word and without each stretch of video."""

from collections.abc import Sequence

import numpy as np
import wcwidth
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sslssaw_jax.evaluation.occlusion import Explanation
from sslssaw_jax.report.text_layout import labelled_lines

HIGHLIGHT, PLAIN, QUIET = "#e8112d", "#a9b4c6", "0.35"
HEADROOM = 1.25  # of the highest bar, for its number

# inches
MARGIN = 0.3
HEADING, BARS, TICKS = 0.3, 0.85, 0.4
LABELS = 1.0  # below the bars, for words; more for longer words
FRAME = 0.9  # the height of a frame
UNIT = 0.9  # the width of the text beside the bars
LINE, NAME, CHARACTER = 0.23, 0.95, 0.087  # of the texts: height, width of a name, width of a character
WIDTH, WORDS_WIDTH = 11.0, 4.6

POINTS = 72  # an inch
LETTER = 0.68  # average width of a wide letter, in font sizes
LONGEST = 30  # letters of a label
FONT_SIZE = 9.0


def draw_explanations(answers: Sequence[tuple[str, Explanation]], frames: np.ndarray) -> Figure:
    """Draw one clip and, below, what each of its sentences hangs on.

    Args:
        answers: Questions with the explanations of their sentences.
        frames: `u8[k, h, w, 3]`, RGB, evenly spaced over the clip; empty for a model without video.
    """
    has_frames = len(frames) > 0
    line_width = int((WIDTH - 2 * MARGIN - NAME) / CHARACTER)
    texts = [
        labelled_lines({"Question": question, "Sentence": explanation.sentence}, line_width)
        for question, explanation in answers
    ]
    heights = [
        LINE * len(lines) + drops_height(explanation) for lines, (_, explanation) in zip(texts, answers)
    ]
    top = 2 * MARGIN + sum(heights) + (FRAME + 0.1) * has_frames
    figure = Figure(figsize=(WIDTH, top))
    top -= MARGIN
    if has_frames:
        left = MARGIN + WORDS_WIDTH
        draw_frames(figure, frames, left, top - FRAME, WIDTH - MARGIN - UNIT - left)
        top -= FRAME + 0.1
    for lines, height, (_, explanation) in zip(texts, heights, answers):
        write_lines(figure, lines, top)
        edge = WORDS_WIDTH if explanation.words else 0.0
        draw_drops(figure, explanation, top - height, edge, WIDTH - 2 * MARGIN - UNIT)
        top -= height
    return figure


def drops_height(explanation: Explanation) -> float:
    """Return the height of `draw_drops` in inches."""
    longest = max((label_width(part.word) for part in explanation.words), default=0.0)
    return HEADING + BARS + max(LABELS, longest + 0.1)


def draw_drops(figure: Figure, explanation: Explanation, bottom: float, edge: float, width: float) -> None:
    """Draw bars for words and stretches, red for the highest of each.

    Args:
        figure: The figure to draw in.
        explanation: Of a sentence.
        bottom: Inches; the bars take `drops_height` above it.
        edge: Inches from the left margin to the place where the words end and the video begins.
        width: Inches from the left margin to the end of the video.
    """
    bottom += drops_height(explanation) - HEADING - BARS
    drops = [*(part.drop for part in explanation.words), *(part.drop for part in explanation.stretches)]
    limits = min([0.0, *drops]), HEADROOM * max([1e-3, *drops])
    if explanation.words:
        words = [part.word for part in explanation.words]
        axes = place(figure, MARGIN, bottom, (edge or width) - 0.2, BARS)
        centres = np.arange(len(words)) + 0.5
        _bars(axes, centres, 0.75, [part.drop for part in explanation.words], limits, "without the word")
        axes.set_xlim(0, len(words))
        cell = ((edge or width) - 0.2) / len(words)
        fits = all(label_width(word) < cell for word in words)
        labels = [shorten(word) for word in words]
        axes.set_xticks(centres, labels, rotation=0 if fits else 90, fontsize=FONT_SIZE)
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
    figure_width, figure_height = figure.get_size_inches()
    figure.text(
        (MARGIN + width + 0.15) / figure_width,
        (bottom + BARS / 2) / figure_height,
        "loss in\nlog-prob-\nability",
        fontsize=8,
        color=QUIET,
        va="center",
    )


def draw_frames(figure: Figure, frames: np.ndarray, left: float, bottom: float, width: float) -> None:
    """Draw frames in a row of a width, all in inches."""
    for number, frame in enumerate(frames):
        slot = width / len(frames)
        wide = min(slot * 0.94, FRAME * frame.shape[1] / frame.shape[0])
        high = wide * frame.shape[0] / frame.shape[1]
        picture = place(figure, left + (number + 0.5) * slot - wide / 2, bottom + FRAME - high, wide, high)
        picture.imshow(frame, aspect="auto")
        picture.set_axis_off()


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
    numbers = [f"{drop:.1f}" if number == highest else "" for number, drop in enumerate(drops)]
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
