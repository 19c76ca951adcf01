"""Pictures of a clip: the SSAW gate (Fig. 4), and what the sentence depends on."""

import re
from typing import NamedTuple

import numpy as np
import wcwidth
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sslssaw_jax.evaluation.explanation import Explanation
from sslssaw_jax.evaluation.predictions import Gate
from sslssaw_jax.report.drops import (
    CHARACTER,
    FONT_SIZE,
    LINE,
    MARGIN,
    NAME,
    POINTS,
    QUIET,
    UNIT,
    WORDS_SHARE,
    draw_drops,
    drops_height,
    label_width,
    place,
    shorten,
    write_lines,
)
from sslssaw_jax.report.text_layout import labelled_lines

COLOURS = "magma"  # dark to bright
BOX = "#e8112d"
HIGHEST = 0.75  # of the span from a part's lowest weight to its highest; higher weights are boxed

COLUMNS = 40  # without a gate

# inches
STRIP = 0.6
HEADING = 0.35
MIN_CELL, MAX_WIDTH, MIN_WIDTH = 0.17, 24.0, 9.0
MIN_FRAME = 0.42

_WORD_MARK = "▁"
_MARKER = re.compile(r"</?s>|\[(CLS|SEP)\]|[a-z]{2}_[A-Z]{2}")


class Word(NamedTuple):
    """A word of the question, or a marker such as `</s>`, and the number of its tokens."""

    text: str
    num_tokens: int

    @property
    def is_marker(self) -> bool:
        """Return whether the word is one of the tokenizer's markers."""
        return bool(_MARKER.fullmatch(self.text))


def words_of(tokens: list[str]) -> list[Word]:
    """Join a question's tokens into words; every token belongs to one word.

    SentencePiece marks the first token of a word (`▁donner stag`), WordPiece all others (`donner ##stag`).
    Chinese has no spaces between words, so each token is a word of its own.
    """
    marked = any(_WORD_MARK in token for token in tokens)
    words: list[Word] = []
    for i, token in enumerate(tokens):
        text = token.replace(_WORD_MARK, "") if marked else token.removeprefix("##")
        if i == 0 or _begins_word(tokens[i - 1], token, marked):
            words.append(Word(text, 1))
        else:
            words[-1] = Word(words[-1].text + text, words[-1].num_tokens + 1)
    return words


def _begins_word(before: str, token: str, marked: bool) -> bool:
    if not marked:
        return not token.startswith("##")
    if before == _WORD_MARK:  # a mark alone belongs to the token after it
        return False
    if token.startswith(_WORD_MARK) or _MARKER.fullmatch(token) or _MARKER.fullmatch(before):
        return True
    return any(wcwidth.width(letter) > 1 for letter in (before[-1:], token[:1]))


def word_weights(words: list[Word], weights: np.ndarray) -> np.ndarray:
    """Replace each token's weight with the mean over its word, f32[tokens]."""
    if not words:
        return weights
    lengths = np.array([word.num_tokens for word in words], int)
    starts = np.cumsum(lengths) - lengths
    return np.repeat(np.add.reduceat(weights, starts) / lengths, lengths)


def highest(weights: np.ndarray) -> list[range]:
    """Return stretches in the upper quarter of the weights' span, if any."""
    if not len(weights):
        return []
    low, high = weights.min(), weights.max()
    is_high = weights > low + HIGHEST * (high - low)
    edges = np.flatnonzero(np.diff(is_high, prepend=False, append=False)).tolist()
    return [range(*edge) for edge in zip(edges[::2], edges[1::2])]


def draw_heatmap(
    *,
    gate: Gate | None,
    explanation: Explanation,
    frames: np.ndarray,
    question: str,
    target: str,
    prediction: str,
) -> Figure:
    """Draw a clip's gate (Fig. 4) and what its sentence depends on.

    The gate is a strip of colour: question words, dashed line, video positions. Brighter means a higher
    weight. Colours span the lowest to the highest weight of the clip, since a gate rarely uses all of (0, 1).
    A word is as wide as its tokens and has their mean weight. Boxes mark the `highest` words and the
    `highest` positions of the video.

    Args:
        gate: The fusion's gate; None draws only what the sentence depends on.
        explanation: Of the prediction.
        frames: `u8[k, h, w, 3]`, RGB, evenly spaced over the clip.
        question: The question as it was asked; left out if empty.
        target: The reference; left out if empty.
        prediction: The model's translation.

    Raises:
        ValueError: `gate` has no position of the video.
    """
    tokens, weights = ([], np.zeros(COLUMNS)) if gate is None else (gate.tokens, gate.weights)
    num_positions = len(weights) - len(tokens)
    if weights.ndim != 1 or num_positions < 1:
        raise ValueError(f"a gate of shape {weights.shape} has no video after {len(tokens)} question tokens")
    words = words_of(tokens)
    cell = max(
        MIN_CELL,
        (MIN_WIDTH - 2 * MARGIN - UNIT) / len(weights),
        MIN_FRAME * len(frames) / num_positions,
    )
    strip_width = min(cell * len(weights), MAX_WIDTH - 2 * MARGIN - UNIT)
    cell = strip_width / len(weights)
    width = strip_width + UNIT + 2 * MARGIN
    texts = {"Question": question, "Reference": target, "Prediction": prediction}
    lines = labelled_lines(
        {name: text for name, text in texts.items() if text or name == "Prediction"},
        int((width - 2 * MARGIN - NAME) / CHARACTER),
    )
    fontsize = min(FONT_SIZE, 0.75 * cell * POINTS)
    labels = max([0.1, *(label_width(word.text, fontsize) + 0.1 for word in words)])
    edge = len(tokens) * cell if gate else WORDS_SHARE * strip_width * bool(explanation.words)
    strip_bottom = MARGIN + drops_height(explanation, frames, edge, strip_width) + labels
    top = strip_bottom + STRIP + HEADING if gate else strip_bottom - labels
    height = top + len(lines) * LINE + MARGIN
    figure = Figure(figsize=(width, height))
    write_lines(figure, lines, height - MARGIN)
    if gate is not None:
        shown = np.concatenate([word_weights(words, weights[: len(tokens)]), weights[len(tokens) :]])
        strip = place(figure, MARGIN, strip_bottom, strip_width, STRIP)
        colours = strip.imshow(shown[None], cmap=COLOURS, aspect="auto", interpolation="nearest")
        _label_words(strip, words, cell, fontsize)
        _box_highest(strip, words, shown)
        _divide(strip, len(tokens), num_positions)
        colourbar_axes = place(figure, MARGIN + strip_width + 0.15, strip_bottom, 0.14, STRIP)
        ticks = [shown.min(), shown.max()]
        colourbar = figure.colorbar(colours, cax=colourbar_axes, ticks=ticks, format="%.3f")
        colourbar.ax.tick_params(labelsize=8, length=0)
        colourbar.ax.set_title("gate", fontsize=9, color=QUIET, loc="left", pad=8)
        colourbar.outline.set_visible(False)
    draw_drops(figure, explanation, frames, MARGIN, edge, strip_width)
    return figure


def _label_words(strip: Axes, words: list[Word], cell: float, fontsize: float) -> None:
    """Write each word below its tokens, with lines between words."""
    ends = np.cumsum([word.num_tokens for word in words])
    middles = [end - (word.num_tokens + 1) / 2 for end, word in zip(ends, words)]
    fits = all(label_width(word.text, fontsize) < word.num_tokens * cell for word in words)
    strip.set_xticks(
        middles, [shorten(word.text) for word in words], rotation=0 if fits else 90, fontsize=fontsize
    )
    for label in strip.get_xticklabels():
        label.set_parse_math(False)
    strip.vlines(ends[:-1] - 0.5, -0.5, 0.5, color="white", linewidth=0.8)
    strip.set_yticks([])
    strip.tick_params(length=2, pad=2)
    strip.spines[:].set_visible(False)


def _box_highest(strip: Axes, words: list[Word], weights: np.ndarray) -> None:
    """Draw boxes around the `highest` stretches of words and video."""
    num_tokens = sum(word.num_tokens for word in words)
    is_word = np.repeat([not word.is_marker for word in words], [word.num_tokens for word in words])
    (asked,) = np.nonzero(is_word)  # contiguous, since markers are at the ends only
    for positions in (asked, np.arange(num_tokens, len(weights))):
        for stretch in highest(weights[positions]):
            box = Rectangle((positions[stretch.start] - 0.5, -0.5), len(stretch), 1, fill=False)
            box.set(edgecolor=BOX, linewidth=2.2, clip_on=False, zorder=3)
            box.set_path_effects(
                [patheffects.Stroke(linewidth=4.5, foreground="white"), patheffects.Normal()]
            )
            strip.add_patch(box)


def _divide(strip: Axes, num_tokens: int, num_positions: int) -> None:
    """Draw a dashed line between question and video, and both headings."""
    edge = num_tokens - 0.5
    headings = {"video positions": edge + num_positions / 2}
    if num_tokens:
        headings["question words"] = (num_tokens - 1) / 2
        ends = [-0.75, 0.5]
        (line,) = strip.plot([edge, edge], ends, color="black", linestyle="--", clip_on=False, zorder=4)
        line.set_path_effects([patheffects.Stroke(linewidth=3, foreground="white"), patheffects.Normal()])
    for heading, centre in headings.items():
        strip.annotate(
            heading,
            (centre, -0.5),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=QUIET,
        )
    strip.set_xlim(-0.5, edge + num_positions)
    strip.set_ylim(0.5, -0.5)
