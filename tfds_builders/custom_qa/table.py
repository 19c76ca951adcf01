"""The table of `custom_qa`: `clips.csv` (RFC 4180, with a header) or `clips.jsonl`, a clip a row."""

import csv
import io
import json
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from tfds_builders.annotation import SPLITS, Annotation, AnnotationError, Annotations, MissingInputError

TABLES = ("clips.csv", "clips.jsonl")
REQUIRED = ("id", "video", "target", "split")
OPTIONAL = ("question", "gloss", "signer")
EXPECTED = (
    f"The folder holds {' or '.join(TABLES)} with {', '.join(REQUIRED)} and perhaps {', '.join(OPTIONAL)}: "
    "see docs/own_data.md"
)
_LONGEST_ID = 200  # bytes; pictures of a clip are named after it

Row = dict[str, str]


def find_table(folder: Path) -> Path:
    """The one table of a folder.

    Raises:
      MissingInputError: there is none.
      AnnotationError: there are two.
    """
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if not tables:
        raise MissingInputError(f"{folder} has no table of clips. {EXPECTED}")
    if len(tables) > 1:
        raise AnnotationError(f"{folder} has both {' and '.join(TABLES)}: keep one")
    return tables[0]


def read_table(table: Path) -> dict[str, Annotations]:
    """The clips of each split that the table names, in the table's order.

    A clip whose video is not there is left out and noted. A table without a train split is one of clips to
    translate: it needs no other split, and no targets.

    Raises:
      AnnotationError: with all that is wrong: rows that cannot be read, ids that come twice; or dev or test
        is missing beside train.
      MissingInputError: no video of a split is there.
    """
    problems: list[str] = []
    rows = list(_rows(table, problems))
    named = {row["split"] for _, row in rows}
    if "train" in named and len(named & set(SPLITS)) < len(SPLITS):
        raise AnnotationError(
            f"{table} has train clips, but none in {' and '.join(sorted(set(SPLITS) - named))}: dev chooses "
            "the best checkpoint and test scores it; give each about a tenth of the clips"
        )
    splits = {split: Annotations() for split in SPLITS if split in named}
    first_video: dict[str, Path] = {}
    ids: set[str] = set()
    for place, row in rows:
        if problem := _problem(row, ids, trains="train" in named):
            problems.append(f"{place}: {problem}")
            continue
        ids.add(row["id"])
        found, video = splits[row["split"]], table.parent / row["video"]
        first_video.setdefault(row["split"], video)
        if not video.exists():
            found.note("video not there, left out", row["id"])
            continue
        found.clips.append(
            Annotation(row["id"], video, row["question"], row["target"], row["gloss"], row["signer"])
        )
    if problems or not splits:
        raise AnnotationError(*problems or [f"{table} has no rows"])
    for split, found in splits.items():
        if not found.clips:
            raise MissingInputError(
                f"no video of {split} is there: {first_video[split]} would be the first; "
                f"paths start at {table.parent}"
            )
    return splits


def _problem(row: Row, ids: Collection[str], trains: bool) -> str:
    """What is wrong with a row; empty for nothing."""
    for column in ("id", "video", "split", *(("target",) if trains else ())):
        if not row[column]:
            return f"no {column}"
    if any(unicodedata.category(character) in ("Cc", "Cs") for text in row.values() for character in text):
        return "a control character or half a character"
    if row["split"] not in SPLITS:
        return f"the split is {row['split']!r}; there are {', '.join(SPLITS)}"
    if row["id"] in ids:
        return f"a second row for the clip {row['id']}"
    if row["id"].startswith(".") or set(row["id"]) & set("/\\") or len(row["id"].encode()) > _LONGEST_ID:
        return (
            f"the id {row['id'][:80]!r} names no file: no slash, no dot in front, {_LONGEST_ID} bytes at most"
        )
    return ""


def _rows(table: Path, problems: list[str]) -> Iterator[tuple[str, Row]]:
    """Each row with all columns, single spaces between words, and with its place in words.

    Rows that have no such columns are passed over and added to `problems`.
    """
    for number, raw_row in (_csv_rows if table.suffix == ".csv" else _json_rows)(table, problems):
        texts = {column: " ".join(raw_row.get(column, "").split()) for column in (*REQUIRED, *OPTIONAL)}
        yield f"{table}, line {number}", {**texts, "video": raw_row["video"].strip()}


def _csv_rows(table: Path, problems: list[str]) -> Iterator[tuple[int, Row]]:
    """Rows that are not blank, with the number of the line that each begins in."""
    reader = csv.reader(io.StringIO(_read_text(table), newline=""), strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        if problem := _columns_problem(header):
            raise AnnotationError(f"{table}, line 1: {problem}")
        number = reader.line_num + 1
        for fields in reader:
            if any(fields) and len(fields) != len(header):
                problems.append(
                    f"{table}, line {number}: {len(fields)} fields where the header has {len(header)}; "
                    'a text with a comma stands in "quotes"'
                )
            elif any(fields):
                yield number, dict(zip(header, fields))
            number = reader.line_num + 1
    except csv.Error as error:
        raise AnnotationError(f"{table}, line {reader.line_num}: {error}") from None


def _json_rows(table: Path, problems: list[str]) -> Iterator[tuple[int, Row]]:
    for number, raw_line in enumerate(_read_text(table).split("\n"), start=1):
        line = raw_line.strip()  # splitlines() would also split at U+2028
        if not line:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
            problem = f'expected {{"id": "...", ...}}, all values in quotes: {line[:80]!r}'
        else:
            problem = _columns_problem(list(row))
        if problem:
            problems.append(f"{table}, line {number}: {problem}")
        else:
            yield number, row


def _columns_problem(columns: list[str]) -> str:
    """What is wrong with the columns of a table or row; empty for nothing."""
    missing = [column for column in REQUIRED if column not in columns]
    wrong = [
        column for column in columns if column not in (*REQUIRED, *OPTIONAL) or columns.count(column) > 1
    ]
    if not missing and not wrong:
        return ""
    problem = f"no column {missing[0]!r}" if missing else f"column {wrong[0]!r} is unknown or there twice"
    return f"{problem}; a table has {', '.join(REQUIRED)}, and may have {', '.join(OPTIONAL)}"


def _read_text(table: Path) -> str:
    """A UTF-8 file, its line ends as they are."""
    data = table.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AnnotationError(f"{table}, line {line}: not UTF-8; save the file as UTF-8") from None
