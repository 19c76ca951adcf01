"""The pictures of a dataset report: statistics of its splits, and a contact sheet of clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.frames import decode_frame, select_frames
from sslssaw_jax.evaluation.metrics import LABELS
from sslssaw_jax.report.dataset_facts import SplitFacts
from sslssaw_jax.report.text_layout import labelled_lines, wrap

COLOURS = ("#3d6f9e", "#c77f16", "#b5443c", "#6b9a5b", "#7d6b9c")
GREY = "0.35"
DPI = 110
BINS = 16

CLIPS_SHOWN, FRAMES_SHOWN = 12, 6
COLUMNS = 2

# inches of the contact sheet
STRIP = 6.6  # a clip's frames
GAP = 0.35  # around the clips
HEADING, LINE, LABEL = 0.26, 0.2, 0.82
CHARACTER = 0.077


@dataclass(frozen=True)
class ShownClip:
    """A clip of the contact sheet."""

    heading: str
    frames: Sequence[np.ndarray]  # u8[H, W, 3], RGB, all of one size
    question: str
    target: str


def choose_clips(sources: Mapping[str, ClipSource], seed: int) -> list[ShownClip]:
    """Choose the same number of random clips from each split, in order."""
    rng = np.random.default_rng(seed)
    shown = []
    for split, source in sources.items():
        count = min(max(1, CLIPS_SHOWN // len(sources)), len(source))
        for index in sorted(rng.choice(len(source), count, replace=False).tolist()):
            clip = source[index]
            numbers = select_frames(clip.num_frames, FRAMES_SHOWN, rng=None).tolist()
            frames = [decode_frame(clip.id, clip.video, number) for number in numbers]
            signer = f", {clip.signer}" if clip.signer else ""
            heading = f"{split}: {clip.id} ({clip.num_frames} frames{signer})"
            shown.append(ShownClip(heading, frames, clip.question, clip.target))
    return shown


def draw_statistics(title: str, facts: Mapping[str, SplitFacts], unit: str) -> Figure:
    """Draw lengths, overlap, scores of the copied question, unknown words and duplicates."""
    figure = Figure(figsize=(15, 8.4))
    counts = ", ".join(f"{len(split.clips):,} {name}" for name, split in facts.items())
    figure.suptitle(
        f"{title}: {counts}", x=0.045, y=0.955, ha="left", va="center", fontsize=14, weight="bold"
    )
    sides = {"left": 0.045, "right": 0.98, "bottom": 0.05, "top": 0.87, "wspace": 0.38, "hspace": 0.25}
    top, bottom = figure.subplots(2, 3, gridspec_kw=sides)
    _histogram(top[0], "Frames a clip", {name: split.num_frames for name, split in facts.items()})
    for axes, side in zip(top[1:], ("question", "target")):
        lengths = {name: split.lengths[side] for name, split in facts.items()}
        _histogram(axes, f"{side.capitalize()} {unit}", lengths)
    overlap = {name: split.overlap for name, split in facts.items()}
    _histogram(bottom[0], "Percent of the target's words in the question", overlap, list(range(0, 101, 10)))
    scores = {name: [split.copy_question[score] for score in LABELS] for name, split in facts.items()}
    _bars(bottom[1], "Score of copying the question", list(LABELS.values()), scores)
    labels = max((list(split.shares) for split in facts.values()), key=len)
    shares = {name: [split.shares.get(label) for label in labels] for name, split in facts.items()}
    _bars(bottom[2], "Vocabulary and duplicates, in percent", labels, shares)
    bottom[2].set_visible(bool(labels))  # without a train split, nothing is known
    handles = bottom[1].get_legend_handles_labels()
    figure.legend(
        *handles, loc="center right", bbox_to_anchor=(0.985, 0.955), ncols=len(facts), frameon=False
    )
    return figure


def _histogram(
    axes: Axes, title: str, values: Mapping[str, np.ndarray], edges: list[float] | None = None
) -> None:
    """Draw shares of each split's clips; the first split is filled."""
    _style(axes, title)
    axes.set_ylabel("percent of clips", color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if edges is None:
        every = np.concatenate(list(values.values()))
        step = max(1, round(np.ptp(every) / BINS))
        edges = [edge - 0.5 for edge in range(every.min(), every.max() + step + 1, step)]
    for place, (of_split, colour) in enumerate(zip(values.values(), COLOURS)):
        is_first = place == 0
        axes.hist(
            of_split,
            edges,
            weights=np.full(len(of_split), 100 / len(of_split)),
            histtype="bar" if is_first else "step",
            color=to_rgba(colour, 0.35 if is_first else 1),
            edgecolor=colour,
            linewidth=1 if is_first else 2.2,
        )


def _bars(axes: Axes, title: str, labels: list[str], values: Mapping[str, list[float | None]]) -> None:
    """Draw a group of horizontal bars for each label, with their values."""
    _style(axes, title)
    high = 0.8 / len(values)
    for row, ((name, of_split), colour) in enumerate(zip(values.items(), COLOURS)):
        middle = (row - (len(values) - 1) / 2) * high
        bars = [(place + middle, x) for place, x in enumerate(of_split) if x is not None]
        axes.barh([y for y, _ in bars], [x for _, x in bars], high * 0.9, color=colour, label=name)
        for y, x in bars:
            axes.annotate(f"{x:.1f}", (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(labels)), ["\n".join(wrap(label, 19)) for label in labels])
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.set_xlim(0, max(10.0, 1.12 * axes.dataLim.x1))


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, labelsize=9)


def draw_contact_sheet(title: str, clips: Sequence[ShownClip]) -> Figure:
    """Draw two clips a row: frames above heading, question and target."""
    height, width, _ = clips[0].frames[0].shape
    most = max(len(clip.frames) for clip in clips)
    frame = (STRIP / most, STRIP / most * height / width)
    width_in_letters = int((STRIP - LABEL) / CHARACTER)
    texts = [labelled_lines(_texts(clip), width_in_letters) for clip in clips]
    rows = [range(start, min(start + COLUMNS, len(clips))) for start in range(0, len(clips), COLUMNS)]
    highs = [frame[1] + HEADING + LINE * max(len(texts[i]) for i in row) + GAP for row in rows]
    size = (COLUMNS * (STRIP + GAP) + GAP, sum(highs) + 2 * GAP)
    figure = Figure(figsize=size)
    figure.text(GAP / size[0], 1 - GAP / size[1], title, fontsize=14, weight="bold", va="center")
    top = size[1] - 2 * GAP
    for row, high in zip(rows, highs):
        for column, i in enumerate(row):
            _draw_clip(figure, clips[i], texts[i], GAP + column * (STRIP + GAP), top, frame)
        top -= high
    return figure


def _draw_clip(
    figure: Figure,
    clip: ShownClip,
    lines: list[tuple[str, str]],
    left: float,
    top: float,
    frame: tuple[float, float],
) -> None:
    width, height = figure.get_size_inches()
    wide, high = frame
    for number, image in enumerate(clip.frames):
        place = (left + number * wide, top - high, 0.97 * wide, high)
        axes = figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
        axes.imshow(image, aspect="auto")
        axes.set_axis_off()
    y = top - high - HEADING / 2
    figure.text(left / width, y / height, clip.heading, fontsize=8, color=GREY, va="center", parse_math=False)
    for number, (label, line) in enumerate(lines):
        y = top - high - HEADING - (number + 0.5) * LINE
        figure.text(left / width, y / height, label, fontsize=9.5, weight="bold", va="center")
        figure.text((left + LABEL) / width, y / height, line, fontsize=9.5, va="center", parse_math=False)


def _texts(clip: ShownClip) -> dict[str, str]:
    texts = {"Question": clip.question, "Target": clip.target}
    return {name: text for name, text in texts.items() if text}
