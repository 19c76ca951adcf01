"""Translations of several systems beside their reference, word by word (Table 8).

    python -m sslssaw_jax.report.word_diff a=runs/a/predictions.test.jsonl b=runs/b/predictions.test.jsonl \\
        --out=diff --clips=20

writes `diff.html` (correct words green, wrong ones red and underlined) and `diff.md` (correct ones bold,
wrong ones struck out). Chinese is compared character by character.
"""

import argparse
import html
import json
import random
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from sslssaw_jax.data.text import has_wide, tokens
from sslssaw_jax.report.html import page, texts_table
from sslssaw_jax.workdir import write_text

CORRECT, WRONG, MISSED = "correct", "wrong", "missed"
MISS = "[Miss]"
LEGEND = (
    '<p class="quiet"><span class="correct">Green</span>: as in the reference. <span class="wrong">Red and '
    f'wavy</span>: wrong. <span class="missed">{MISS}</span>: nothing stands for a word of the reference.</p>'
)


class Word(NamedTuple):
    """A word of a prediction and what it is; `MISS` where one of the reference has no word in its place."""

    text: str
    kind: str  # correct | wrong | missed


def word_diff(reference: Sequence[str], prediction: Sequence[str]) -> list[Word]:
    """The prediction's words, along a longest common subsequence with the reference.

    What stands between two correct words is wrong; `[Miss]` follows for each word by which it is shorter
    than what the reference has there.
    """
    words: list[Word] = []
    i = j = 0
    for match_i, match_j in [*_common(reference, prediction), (len(reference), len(prediction))]:
        words += [Word(word, WRONG) for word in prediction[j:match_j]]
        words += [Word(MISS, MISSED)] * max(0, (match_i - i) - (match_j - j))
        words += [Word(word, CORRECT) for word in prediction[match_j : match_j + 1]]
        i, j = match_i + 1, match_j + 1
    return words


def _common(reference: Sequence[str], prediction: Sequence[str]) -> list[tuple[int, int]]:
    """The places of a longest common subsequence in both, in order."""
    lengths = [[0] * (len(prediction) + 1) for _ in range(len(reference) + 1)]
    for i in range(len(reference) - 1, -1, -1):
        for j in range(len(prediction) - 1, -1, -1):
            if reference[i] == prediction[j]:
                lengths[i][j] = lengths[i + 1][j + 1] + 1
            else:
                lengths[i][j] = max(lengths[i + 1][j], lengths[i][j + 1])
    places, i, j = [], 0, 0
    while i < len(reference) and j < len(prediction):
        if reference[i] == prediction[j]:
            places.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return places


Rows = list[dict[str, Any]]  # of a predictions file


def read_systems(files: Mapping[str, Path]) -> dict[str, Rows]:
    """The predictions of each system, all of the same clips in the same order.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: two files are not of the same clips.
    """
    systems = {}
    for name, path in files.items():
        with path.open(encoding="utf-8") as lines:
            systems[name] = [json.loads(line) for line in lines]
    first, *others = systems
    for name in others:
        if [row["id"] for row in systems[name]] != [row["id"] for row in systems[first]]:
            raise ValueError(f"{files[name]} and {files[first]} hold predictions of different clips")
    return systems


def to_html(systems: Mapping[str, Rows], clips: Sequence[int]) -> str:
    """A page of its own: a table a clip, the reference above the systems."""
    tables = []
    for clip in clips:
        known = next(iter(systems.values()))[clip]
        rows = [("Question", html.escape(known["question"])), ("Reference", html.escape(known["target"]))]
        for name, predictions in systems.items():
            rows.append((name, diff_html(predictions[clip]["target"], predictions[clip]["prediction"])))
        tables.append(texts_table(known["id"], rows))
    return page("Translations, word by word", "\n".join(["<h1>Word by word</h1>", LEGEND, *tables]))


def diff_html(target: str, prediction: str) -> str:
    """The prediction in the colours of `page`: what is correct in it, wrong, and missing."""
    shown = [f'<span class="{run.kind}">{html.escape(run.text)}</span>' for run in _runs(target, prediction)]
    return ("" if has_wide(target) else " ").join(shown)


def to_markdown(systems: Mapping[str, Rows], clips: Sequence[int]) -> str:
    """The same as Markdown, which has no colours."""
    marks = {CORRECT: "**{}**", WRONG: "~~{}~~"}
    lines = []
    for clip in clips:
        known = next(iter(systems.values()))[clip]
        lines += [f"| {_cell(known['id'])} | |", "| --- | --- |"]
        lines += [f"| Question | {_cell(known['question'])} |", f"| Reference | {_cell(known['target'])} |"]
        for name, predictions in systems.items():
            runs = _runs(predictions[clip]["target"], predictions[clip]["prediction"])
            shown = " ".join(
                run.text if run.kind == MISSED else marks[run.kind].format(_cell(run.text)) for run in runs
            )
            lines.append(f"| {_cell(name)} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """The text as it is: none of its characters is markup."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", " ".join(text.split()))


def _runs(target: str, prediction: str) -> list[Word]:
    """`word_diff` of two texts, neighbours of one kind together."""
    characters = has_wide(target)
    glue = "" if characters else " "
    diff = word_diff(tokens(target, characters), tokens(prediction, characters))
    return [
        Word(glue.join(word.text for word in run), kind)
        for kind, run in groupby(diff, key=lambda word: word.kind)
    ]


def _system(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is no system; expected NAME=PREDICTIONS.jsonl")
    return name, Path(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sslssaw_jax.report.word_diff", description="Table 8.")
    parser.add_argument("systems", nargs="+", type=_system, help="NAME=predictions.test.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="OUT.html and OUT.md are written")
    parser.add_argument("--clips", type=int, default=20, help="how many, drawn at random; default 20")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args(arguments)
    try:
        systems = read_systems(dict(options.systems))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    num_clips = len(next(iter(systems.values())))
    clips = sorted(random.Random(options.seed).sample(range(num_clips), min(options.clips, num_clips)))
    for suffix, text in (
        (".html", to_html(systems, clips)),
        (".md", to_markdown(systems, clips)),
    ):
        write_text(options.out.with_name(options.out.name + suffix), text)
    print(f"{len(clips)} clips: {options.out}.html, {options.out}.md")


if __name__ == "__main__":
    main()
