"""Render a rehearsal corpus.

    python -m tfds_builders.rehearsal phoenix2014t_qa --annotations=DIR --out=DIR

Names, sentences, questions, glosses and frame counts are the real ones, the frames are rendered, and the
files lie as in the official release, so that preparation and training can be rehearsed without the licence.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sslssaw_jax.errors import UserError
from tfds_builders.parallel import available_cpus
from tfds_builders.rehearsal import csl_daily, phoenix2014t
from tfds_builders.rehearsal.corpus import Corpus, write_corpus

PLANS = {"csl_daily_qa": csl_daily.plan, "phoenix2014t_qa": phoenix2014t.plan}


def rehearse(
    name: str,
    annotations_dir: Path,
    out: Path,
    *,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    num_workers: int = 0,
) -> Corpus:
    """Renders the clips of the question files in the layout of the release; clips already there are kept.

    Args:
      name: one of `PLANS`.
      annotations_dir: holds the question files, and what else the dataset's `plan` reads.
      out: the folder to write; its annotations are written last, so preparing half a corpus is refused.
      limit: at most this many clips of each split.
      size: (height, width) of the frames in pixels; the release's by default.
      num_workers: processes; 0 is one a core.

    Raises:
      MissingInputError: a file is not there.
      AnnotationError: rows cannot be read.
    """
    corpus = PLANS[name](annotations_dir, limit)
    write_corpus(corpus, out, size or corpus.size, num_workers or available_cpus())
    return corpus


def _size(text: str) -> tuple[int, int]:
    width, times, height = text.partition("x")
    if not (times and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT such as 210x260")
    return int(height), int(width)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.rehearsal", description="Renders a corpus."
    )
    parser.add_argument("name", choices=PLANS)
    parser.add_argument("--annotations", type=Path, required=True, help="holds the question files")
    parser.add_argument("--out", type=Path, required=True, help="the corpus' folder")
    parser.add_argument("--limit", type=_count, help="at most this many rows of each split")
    parser.add_argument("--size", type=_size, help="width x height, default: the release's")
    parser.add_argument("--num_workers", type=int, default=0, help="processes; default: one a core")
    options = parser.parse_args(arguments)
    try:
        corpus = rehearse(
            options.name,
            options.annotations,
            options.out,
            limit=options.limit,
            size=options.size,
            num_workers=options.num_workers,
        )
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; run the same command again to go on") from None
    for note in corpus.notes:
        print(f"note: {note}")
    print(
        f"{len(corpus.clips):,} clips in {options.out}; prepare them with:\n"
        f"python -m tfds_builders.prepare {options.name} --manual_dir={options.out}"
    )


if __name__ == "__main__":
    main()
