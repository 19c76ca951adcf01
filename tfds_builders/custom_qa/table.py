"""The table of `custom_qa`, one clip per row.

It is `clips.csv` or `clips.tsv` (RFC 4180, with a header; commas, semicolons or tabs) or `clips.jsonl`.
"""

import csv
import functools
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslssaw_jax.data.text import normal
from sslssaw_jax.data.video import Segment
from tfds_builders.annotation import (
    SPLITS,
    Annotation,
    AnnotationError,
    Annotations,
    MissingInputError,
    first_existing,
    parse_rows,
)

TABLES = ("clips.csv", "clips.tsv", "clips.jsonl")
REQUIRED = ("id", "video", "target", "split")
OPTIONAL = ("question", "gloss", "signer", "start", "end")
_OTHER_NAMES = {"val": "dev", "valid": "dev", "validation": "dev"}
_NO_TEXTS = {"#N/A", "#NAME?", "#REF!", "#VALUE!", "#NULL!", "NULL", "NAN"}  # of spreadsheets and pandas
EXPECTED = (
    f"The folder holds {' or '.join(TABLES)} with {', '.join(REQUIRED)} and perhaps {', '.join(OPTIONAL)}: "
    "see docs/own_data.md"
)


Rows = Iterator[tuple[int, dict[str, str]]]
"""The cells of each row by column, with the number of its line."""


class Row(NamedTuple):
    """A row of the table; an absent column is empty."""

    id: str
    video: str
    target: str
    split: str
    question: str
    gloss: str
    signer: str
    start: str
    end: str


def find_table(folder: Path) -> Path:
    """Return the only table in a folder.

    Raises:
        MissingInputError: There is none.
        AnnotationError: There are two.
    """
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if not tables:
        raise MissingInputError(f"{folder} has no table of clips. {EXPECTED}")
    if len(tables) > 1:
        raise AnnotationError(f"{folder} has {' and '.join(path.name for path in tables)}: keep one")
    return tables[0]


def read_table(table: Path, *, needs_video: bool = True) -> dict[str, Annotations]:
    """Read the clips of each split in the table's order.

    A clip whose video is not there is left out and noted. A table without train clips holds clips to
    translate: it needs no other split and no targets.

    Args:
        table: The file.
        needs_video: Whether the videos are read; otherwise the column may be missing, too.

    Raises:
        AnnotationError: Rows cannot be read, ids are repeated, or a table with train clips lacks dev or test.
        MissingInputError: No video of a split is there.
    """
    problems: list[str] = []
    needed = [column for column in REQUIRED if column != "video" or needs_video]
    read_rows = _json_rows if table.suffix == ".jsonl" else _csv_rows
    columns = list(read_rows(table, needed, problems))
    named = {_split(row) for _, row in columns}
    if "train" in named and named < set(SPLITS):
        raise AnnotationError(
            f"{table} has train clips, but none in {' and '.join(sorted(set(SPLITS) - named))}: dev chooses "
            "the best checkpoint and test scores it; give each about a tenth of the clips"
        )
    places = ((f"{table}, line {number}", row) for number, row in columns)
    required = [column for column in needed if column != "target" or "train" in named]
    parse = functools.partial(_parse_row, required=required)
    rows = parse_rows(places, parse, problems).values()
    if problems or not rows:
        raise AnnotationError(*problems or [f"{table} has no rows"])
    splits = {split: Annotations() for split in SPLITS if split in named}
    for row in rows:
        if not _NO_TEXTS.isdisjoint((row.target.upper(), row.question.upper())):
            splits[row.split].note("target or question is #N/A, NULL or the like, kept", row.id)
        found, path = splits[row.split], _find_video(table.parent, row.video)
        if path.exists() or not needs_video:
            video = Segment(path, float(row.start), float(row.end)) if row.end else path
            found.clips.append(Annotation(row.id, video, row.question, row.target, row.gloss, row.signer))
        else:
            found.leave_out("video not there", row.id)
    for split, found in splits.items():
        if not found.clips:
            first = next(row.video for row in rows if row.split == split)
            raise MissingInputError(
                f"no video of {split} is there: {table.parent / first} would be the first; paths start at "
                f"{table.parent}"
            )
    if needs_video and "train" in splits:
        _note_videos_of_train(splits)
    return splits


def _note_videos_of_train(splits: Mapping[str, Annotations]) -> None:
    """Note clips of dev and test whose video train shows, too."""
    shown: dict[Path, list[tuple[float, float]]] = {}
    for clip in splits["train"].clips:
        path, start, end = _place(clip.video)
        shown.setdefault(path, []).append((start, end))
    for split in ("dev", "test"):
        for clip in splits[split].clips:
            path, start, end = _place(clip.video)
            if any(start < last and first < end for first, last in shown.get(path, ())):
                splits[split].note("its video is in train, too", clip.name)


def _place(video: Path | Segment) -> tuple[Path, float, float]:
    """Return a video's file with the clip's start and end in seconds."""
    return (video.path, video.start, video.end) if isinstance(video, Segment) else (video, 0.0, math.inf)


def _parse_row(columns: dict[str, str], required: Sequence[str]) -> Row:
    """Parse a row, with single spaces between words.

    A text that shows nothing is empty.
    """
    texts = {column: " ".join(columns.get(column, "").split()) for column in Row._fields}
    texts = {column: text if normal(text) else "" for column, text in texts.items()}
    row = Row(**texts | {"video": columns.get("video", "").strip(), "split": _split(columns)})
    for column in required:
        if not texts[column]:
            raise ValueError(f"no {column}")
    if any(unicodedata.category(character) in ("Cc", "Cs") for text in row for character in text):
        raise ValueError("a control character or half a character")
    if row.split not in SPLITS:
        raise ValueError(f"the split is {row.split!r}; allowed: {', '.join(SPLITS)}")
    if row.start or row.end:
        _check_times(row.start, row.end)
    return row


def _split(columns: dict[str, str]) -> str:
    name = columns["split"].strip().casefold()
    return _OTHER_NAMES.get(name, name)


def _check_times(start: str, end: str) -> None:
    try:
        good = 0 <= float(start) < float(end) < math.inf
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"start is {start!r} and end {end!r}; expected seconds, such as 12.5 and 15")


def _find_video(folder: Path, name: str) -> Path:
    """Return the path of a video, however its accents are composed."""
    paths = [folder / name, *(folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    return first_existing(paths)


def _csv_rows(table: Path, needed: Sequence[str], problems: list[str]) -> Rows:
    """Yield each row with the number of its first line."""
    text = _read_text(table)
    named = re.match("sep=(.)\r?\n", text)  # a line of Excel's before the header
    above, text = (1, text[named.end() :]) if named else (0, text)
    first_line = text.partition("\n")[0]
    separator = named[1] if named else max(",;\t", key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    number = above + 1
    try:
        header = [column.strip().casefold() for column in _cut(next(reader, []), 0)]
        if problem := _columns_problem(header, needed):
            hint = "; separate columns with commas" * (len(header) == 1)
            raise AnnotationError(f"{table}, line {number}: {problem}{hint}")
        number = above + reader.line_num + 1
        for cells in reader:
            fields = _cut(cells, len(header))
            if any(map(str.strip, fields)) and len(fields) != len(header):
                problems.append(
                    f"{table}, line {number}: {len(fields)} fields, but the header has {len(header)}; "
                    f'a text with {separator!r} needs "quotes"'
                )
            elif any(map(str.strip, fields)):
                yield number, dict(zip(header, fields))
            number = above + reader.line_num + 1
    except csv.Error as error:
        raise AnnotationError(
            f"{table}, line {number}: {error}; a text that begins with a quotation mark needs one at its "
            'end, and two for each inside: """Yes"", she said"'
        ) from None


def _cut(cells: list[str], length: int) -> list[str]:
    """Return cells without the empty ones after a length, which spreadsheets leave."""
    while len(cells) > length and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _json_rows(table: Path, needed: Sequence[str], problems: list[str]) -> Rows:
    """Yield each object with the number of its line."""
    lines = _read_text(table).split("\n")  # splitlines() splits at U+2028 too
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            # pandas writes NaN for an empty cell; a dictionary would hide that a key occurs twice
            row = json.loads(line, parse_constant=lambda _: None, object_pairs_hook=tuple)
        except (ValueError, RecursionError):
            row = None
        texts = _json_texts(row) if isinstance(row, tuple) else None
        if texts is None:
            problem = f'expected {{"id": "...", ...}}, all values texts or numbers: {line.strip()[:80]!r}'
        else:
            problem = _columns_problem([key for key, _ in texts], needed)
        if texts is None or problem:
            problems.append(f"{table}, line {number}: {problem}")
        else:
            yield number, dict(texts)


def _json_texts(pairs: tuple[tuple[str, Any], ...]) -> list[tuple[str, str]] | None:
    """Return the texts and numbers of an object as texts, or None."""
    if not all(value is None or type(value) in (str, int, float) for _, value in pairs):
        return None
    return [(key.strip().casefold(), "" if value is None else str(value)) for key, value in pairs]


def _columns_problem(columns: list[str], needed: Sequence[str]) -> str:
    """Return what is wrong with the columns, if anything."""
    missing = [column for column in needed if column not in columns]
    wrong = [column for column in columns if column not in Row._fields or columns.count(column) > 1]
    if not missing and not wrong:
        return ""
    problem = f"no column {missing[0]!r}" if missing else f"column {wrong[0]!r} is unknown or occurs twice"
    allowed = f"a table has {', '.join(REQUIRED)}, and may have {', '.join(OPTIONAL)}"
    return f"{problem}; {allowed}; found {', '.join(columns)[:80]}"


def _read_text(table: Path) -> str:
    """Return the text of a UTF-8 file with its original line ends."""
    data = table.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AnnotationError(f"{table}, line {line}: not UTF-8; save the file as UTF-8") from None
