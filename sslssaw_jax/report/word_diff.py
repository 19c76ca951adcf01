"""Translations of several systems next to their reference, word by word (Table 8)."""

import argparse
import random
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from rapidfuzz.distance import LCSseq

from sslssaw_jax.data.text import counts_characters, tokens
from sslssaw_jax.errors import UserError, ends_in_one_line, set_up_output
from sslssaw_jax.evaluation.predictions import Prediction, read_predictions
from sslssaw_jax.report.html import render
from sslssaw_jax.workdir import user_path, write_text

CORRECT, WRONG, MISSED = "correct", "wrong", "missed"
MISS = "[Miss]"
Systems = Mapping[str, Sequence[Prediction]]  # by name


class Word(NamedTuple):
    """A word of a prediction, or `MISS` in place of a word of the reference."""

    text: str
    kind: str  # correct | wrong | missed


def word_diff(reference: Sequence[str], prediction: Sequence[str]) -> list[Word]:
    """Align a prediction's words with the reference by a longest common subsequence.

    Words between two correct ones are wrong; one `MISS` follows for each word by which the
    reference is longer in the same place.
    """
    words: list[Word] = []
    i = j = 0  # the first words of reference and prediction not yet shown
    for match in LCSseq.opcodes(reference, prediction).as_matching_blocks():
        words += [Word(word, WRONG) for word in prediction[j : match.b]]
        words += [Word(MISS, MISSED)] * max(0, (match.a - i) - (match.b - j))
        i, j = match.a + match.size, match.b + match.size
        words += [Word(word, CORRECT) for word in prediction[match.b : j]]
    return words


def read_systems(files: Mapping[str, Path]) -> Systems:
    """Read the predictions of each system for the same clips, in order.

    Raises:
        FileNotFoundError: A file does not exist.
        UserError: A file is empty, a line is not a prediction, or two files hold different clips.
    """
    systems = {name: read_predictions(path) for name, path in files.items()}
    for name, rows in systems.items():
        if not rows:
            raise UserError(f"{files[name]} holds no prediction")
    first, *others = systems
    for name in others:
        if [row.id for row in systems[name]] != [row.id for row in systems[first]]:
            raise UserError(f"{files[name]} and {files[first]} hold predictions of different clips")
    return systems


def to_html(systems: Systems, clips: Sequence[int]) -> Markup:
    """Return a page with a table for each clip."""
    tables, characters = [], _counts_characters(systems)
    for clip in clips:
        known = next(iter(systems.values()))[clip]
        texts = [("Question", known.question), ("Reference", known.target)]
        for name, rows in systems.items():
            texts.append((name, diff_html(rows[clip].target, rows[clip].prediction, characters)))
        tables.append((known.id, texts))
    return render("word_diff.html", clips=tables)


def diff_html(target: str, prediction: str, characters: bool) -> Markup:
    """Return the prediction with its correct, wrong and missing words marked."""
    span = Markup('<span class="{}">{}</span>')
    marked = [span.format(kind, text) for text, kind in _runs(target, prediction, characters)]
    return Markup("" if characters else " ").join(marked)


def to_markdown(systems: Systems, clips: Sequence[int]) -> str:
    """Return the same as Markdown: correct words bold, wrong words struck out."""
    marks = {CORRECT: "**{}**", WRONG: "~~{}~~", MISSED: MISS}
    lines, characters = [], _counts_characters(systems)
    for clip in clips:
        known = next(iter(systems.values()))[clip]
        lines += [f"| {_cell(known.id)} | |", "| --- | --- |"]
        lines += [f"| Question | {_cell(known.question)} |", f"| Reference | {_cell(known.target)} |"]
        for name, rows in systems.items():
            runs = _runs(rows[clip].target, rows[clip].prediction, characters)
            shown = [marks[run.kind].format(_cell(run.text)) for run in runs]
            lines.append(f"| {_cell(name)} | {' '.join(shown)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", " ".join(text.split()))


def _counts_characters(systems: Systems) -> bool:
    return counts_characters(row.target for row in next(iter(systems.values())))


def _runs(target: str, prediction: str, characters: bool) -> list[Word]:
    """Return the `word_diff` of two texts with neighbours of one kind joined."""
    glue = "" if characters else " "
    diff = word_diff(tokens(target, characters), tokens(prediction, characters))
    return [
        Word(glue.join(word.text for word in run), kind)
        for kind, run in groupby(diff, key=lambda word: word.kind)
    ]


def _system(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PREDICTIONS.jsonl")
    return name, user_path(path)


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m sslssaw_jax.report.word_diff",
        description="Compare the translations of several runs word by word (Table 8 of the paper): OUT.html "
        "shows correct words green and wrong words red, OUT.md correct words bold and wrong ones struck out.",
        epilog="Example: python -m sslssaw_jax.report.word_diff SSAW=runs/demo/predictions.test.jsonl "
        "concat=runs/demo_concat/predictions.test.jsonl --out=diff",
    )
    parser.add_argument(
        "systems",
        nargs="+",
        type=_system,
        metavar="NAME=PREDICTIONS.jsonl",
        help="a run's name in the comparison, and its file",
    )
    parser.add_argument(
        "--out", type=user_path, required=True, help="path of the two files, without a suffix"
    )
    parser.add_argument("--clips", type=int, default=20, help="number of clips, drawn at random; default 20")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw; default 0")
    options = parser.parse_args(arguments)
    if options.clips < 1:
        parser.error(f"--clips={options.clips}: at least one is needed")
    if len(files := dict(options.systems)) < len(options.systems):
        parser.error("two systems have the same name: give each its own")
    if not options.out.name:
        parser.error(f"--out={options.out} names no file: add one, such as diff")
    systems = read_systems(files)
    num_clips = len(next(iter(systems.values())))
    clips = sorted(random.Random(options.seed).sample(range(num_clips), min(options.clips, num_clips)))
    for suffix, to_text in {".html": to_html, ".md": to_markdown}.items():
        write_text(options.out.with_name(options.out.name + suffix), to_text(systems, clips))
    print(f"{len(clips)} clips: {options.out}.html, {options.out}.md")


if __name__ == "__main__":
    set_up_output()
    main()
