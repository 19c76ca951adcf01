"""Translations of several systems beside their reference, word by word (Table 8).

    python -m sslssaw_jax.word_diff ours=runs/a/predictions.test.jsonl concat=runs/b/predictions.test.jsonl \\
        --out=diff --clips=20

writes `diff.html` (correct words green, wrong ones red) and `diff.md` (correct bold, wrong struck out).
"""

import argparse
import html
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslssaw_jax.logs import write_text

CORRECT, WRONG, MISSED = "correct", "wrong", "missed"
MISS = "[Miss]"


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
        lines = path.read_text(encoding="utf-8").splitlines()
        systems[name] = [json.loads(line) for line in lines]
    first, *others = systems
    for name in others:
        if [row["id"] for row in systems[name]] != [row["id"] for row in systems[first]]:
            raise ValueError(f"{files[name]} and {files[first]} hold predictions of different clips")
    return systems


def to_html(systems: Mapping[str, Rows], clips: Sequence[int], *, characters: bool = False) -> str:
    """A page of its own: a table a clip, the reference above the systems."""
    body = []
    for clip in clips:
        known = next(iter(systems.values()))[clip]
        rows = [
            _row("Question", html.escape(known["question"])),
            _row("Reference", html.escape(known["target"])),
        ]
        for name, predictions in systems.items():
            diff = word_diff(
                *(_split(predictions[clip][key], characters) for key in ("target", "prediction"))
            )
            shown = [f'<span class="{word.kind}">{html.escape(word.text)}</span>' for word in diff]
            rows.append(_row(name, ("" if characters else " ").join(shown)))
        body.append(f"<table><caption>{html.escape(known['id'])}</caption>{''.join(rows)}</table>")
    return _PAGE.format(tables="\n".join(body))


def _row(name: str, cell: str) -> str:
    return f"<tr><th>{html.escape(name)}</th><td>{cell}</td></tr>"


def to_markdown(systems: Mapping[str, Rows], clips: Sequence[int], *, characters: bool = False) -> str:
    """The same as Markdown, which has no colours."""
    marks = {CORRECT: "**{}**", WRONG: "~~{}~~", MISSED: "{}"}
    lines = []
    for clip in clips:
        known = next(iter(systems.values()))[clip]
        lines += [f"| {known['id']} | |", "| --- | --- |"]
        lines += [f"| Question | {_cell(known['question'])} |", f"| Reference | {_cell(known['target'])} |"]
        for name, predictions in systems.items():
            diff = word_diff(
                *(_split(predictions[clip][key], characters) for key in ("target", "prediction"))
            )
            shown = " ".join(marks[word.kind].format(_cell(word.text)) for word in diff)
            lines.append(f"| {_cell(name)} | {shown} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _split(text: str, characters: bool) -> list[str]:
    return list("".join(text.split())) if characters else text.split()


_PAGE = """<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Translations, word by word</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100%; margin: 0 0 2rem }}
caption {{ text-align: left; color: #666; font-size: .85rem; overflow-wrap: anywhere }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-top: 1px solid #ddd }}
th {{ width: 8rem; font-weight: 600; overflow-wrap: anywhere }}
.correct {{ color: #1a7f37 }} .wrong {{ color: #cf222e }} .missed {{ color: #888 }}
</style>
{tables}
"""


def _system(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is no system; expected NAME=PREDICTIONS.jsonl")
    return name, Path(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sslssaw_jax.word_diff", description="Table 8.")
    parser.add_argument("systems", nargs="+", type=_system, help="NAME=predictions.test.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="OUT.html and OUT.md are written")
    parser.add_argument("--clips", type=int, default=20, help="how many, drawn at random; default 20")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--characters", action="store_true", help="compare characters, as for Chinese")
    options = parser.parse_args(arguments)
    try:
        systems = read_systems(dict(options.systems))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    num_clips = len(next(iter(systems.values())))
    clips = sorted(random.Random(options.seed).sample(range(num_clips), min(options.clips, num_clips)))
    for suffix, text in (
        (".html", to_html(systems, clips, characters=options.characters)),
        (".md", to_markdown(systems, clips, characters=options.characters)),
    ):
        write_text(options.out.with_name(options.out.name + suffix), text)
    print(f"{len(clips)} clips: {options.out}.html, {options.out}.md")


if __name__ == "__main__":
    main()
