"""Render a rehearsal corpus.

    python -m tfds_builders.rehearsal phoenix2014t_qa --annotations=DIR --out=rehearsal

Names, sentences, questions, glosses and frame counts are real, frames are rendered, and the files are laid
out as in the official release, so that preparation and training can be rehearsed without its licence.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sslssaw_jax.data.keypoints import AVATAR
from sslssaw_jax.errors import ends_in_one_line, set_up_output
from sslssaw_jax.workdir import user_path
from tfds_builders.frame_size import frame_size
from tfds_builders.rehearsal import POSES

if TYPE_CHECKING:  # each worker process imports this module, which therefore stays light
    from tfds_builders.rehearsal.corpus import Corpus

CORPORA = ("csl_daily_qa", "phoenix2014t_qa", "qsl_qa")


def rehearse(
    name: str,
    annotations_dir: Path,
    out: Path,
    *,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    every: int = 1,
    num_workers: int = 0,
) -> "Corpus":
    """Render the missing clips, laid out like the release.

    Args:
        name: One of `CORPORA`.
        annotations_dir: The folder of the question files and other files that the corpus's `plan` reads.
        out: The folder to write; its annotations are written last, so that half a corpus cannot be prepared.
        limit: Maximum number of clips in each split.
        size: Height and width of the frames in pixels; by default those of the release.
        every: 4 renders every fourth of the frames, a quarter of the frame rate.
        num_workers: Number of processes; 0 is one per core.

    Raises:
        MissingInputError: A file is not there.
        AnnotationError: Rows cannot be read.
    """
    from tfds_builders.rehearsal import csl_daily, phoenix2014t, qsl
    from tfds_builders.rehearsal.corpus import write_corpus

    plans = {"csl_daily_qa": csl_daily.plan, "phoenix2014t_qa": phoenix2014t.plan, "qsl_qa": qsl.plan}
    corpus = plans[name](annotations_dir, limit, every)
    write_corpus(corpus, out, size or corpus.size, num_workers)
    return corpus


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.rehearsal",
        description="Render a substitute for a licensed corpus: real texts and frame counts, drawn signers.",
        epilog="example: python -m tfds_builders.rehearsal phoenix2014t_qa --annotations=DIR --out=rehearsal "
        "--size=56x56 --every=4",
    )
    parser.add_argument("name", choices=CORPORA, help="the corpus to replace")
    parser.add_argument(
        "--annotations",
        dest="annotations_dir",
        metavar="DIR",
        type=user_path,
        required=True,
        help="folder of the question files",
    )
    parser.add_argument("--out", type=user_path, required=True, help="folder to write")
    parser.add_argument("--limit", type=_count, help="at most this many clips of each split (default: all)")
    parser.add_argument("--size", type=frame_size, help="WIDTHxHEIGHT of the frames (default: the release's)")
    parser.add_argument(
        "--every", type=_count, default=1, help="4 renders every fourth frame, a quarter of the frame rate"
    )
    parser.add_argument("--num_workers", type=int, default=0, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    try:
        corpus = rehearse(**vars(options))
    except KeyboardInterrupt:
        raise SystemExit("interrupted; run the same command again to continue") from None
    for note in corpus.notes:
        print(f"note: {note}")
    rate = f" --fps={corpus.fps / options.every:g}" if options.every > 1 else ""
    print(
        f"{len(corpus.clips):,} clips in {options.out}; prepare them with:\n"
        f"python -m tfds_builders.prepare {options.name} --manual_dir={options.out}{rate}\n"
        "and, for systems that read keypoints, add the signers' joints:\n"
        f"python -m tfds_builders.features --format=keypoints --name={AVATAR} --dataset={options.name} "
        f"{options.out / POSES}"
    )


if __name__ == "__main__":
    set_up_output()
    main()
