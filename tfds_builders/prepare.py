"""Prepare a dataset.

    python -m tfds_builders.prepare phoenix2014t_qa --manual_dir=PHOENIX-2014-T --data_dir=data

`DATA_DIR/NAME/VERSION/` then holds the TFDS dataset (array_record), `dataset.json` (its language, source and
options), `digests.json` (of every file), `clips.<split>.jsonl` (everything known about each record except its
video, in the order of the records) and, if there is a train split, `tokenizer/`. The folder appears by a
single rename, so it is whole or absent. A dataset of drawn signers also gets their joints, as a keypoint set.
"""

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sslssaw_jax.data.dataset import (
    BROKEN_FACTS,
    DATASETS,
    Source,
    damaged_files,
    find_dataset,
    read_facts,
    write_dataset_facts,
)
from sslssaw_jax.data.video import JPEG_QUALITY, OptionError
from sslssaw_jax.errors import UserError, listed, set_up_output
from sslssaw_jax.workdir import locked, read_jsonl, user_path
from tfds_builders.annotation import AnnotationError
from tfds_builders.dataset_folder import (
    write_clips,
    write_keypoints,
    write_records,
    write_tokenizer,
)
from tfds_builders.prepared_before import differences, options_of

if TYPE_CHECKING:  # each worker process of a builder imports this module, which therefore stays light
    from tfds_builders.video_qa_builder import VideoQaBuilder

_NAMES_CHECKED = 100  # that --check shows; some oddities affect half a corpus


class PrepareError(UserError):
    """An error that says why a dataset cannot be prepared."""


def make_builder(name: str, folder: Path, *, language: str = "", **options: Any) -> "VideoQaBuilder":
    """Return the builder that writes a dataset into a folder.

    Args:
        name: One of `DATASETS`.
        folder: The folder of all datasets.
        language: mBART's code of the texts' language; required by `custom_qa`, known for the others.
        **options: Arguments of `VideoQaBuilder`.
    """
    from tfds_builders.avatar_qa.avatar_qa_dataset_builder import Builder as AvatarQa
    from tfds_builders.csl_daily_qa.csl_daily_qa_dataset_builder import Builder as CslDailyQa
    from tfds_builders.custom_qa.custom_qa_dataset_builder import Builder as CustomQa
    from tfds_builders.phoenix2014t_qa.phoenix2014t_qa_dataset_builder import Builder as Phoenix2014tQa
    from tfds_builders.qsl_qa.qsl_qa_dataset_builder import Builder as QslQa

    if name == "custom_qa":
        return CustomQa(data_dir=folder, language=language, **options)
    builders = {
        "avatar_qa": AvatarQa,
        "csl_daily_qa": CslDailyQa,
        "phoenix2014t_qa": Phoenix2014tQa,
        "qsl_qa": QslQa,
    }
    builder = builders[name](data_dir=folder, **options)
    if language not in ("", builder.language):
        raise PrepareError(f"the texts of {name} are in {builder.language}: leave out --language={language}")
    return builder


def prepare(
    name: str,
    data_dir: Path,
    *,
    manual_dir: Path | None = None,
    vocab_size: int = 0,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Prepare a dataset unless it exists; return its folder.

    Args:
        name: One of `DATASETS`.
        data_dir: The folder of all prepared datasets.
        manual_dir: The folder of files that cannot be downloaded.
        vocab_size: Size of the tokenizer without special tokens, or fewer if the texts do not support it; 0
            is `dataset_folder.DEFAULT_VOCAB_SIZE` and the single characters of the texts.
        overwrite: Whether to prepare an existing dataset again.
        **options: Arguments of `make_builder`.

    Raises:
        UserError: An option is not allowed, or an input is missing or unusable.
    """
    work = data_dir / f".preparing-{name}"
    incomplete = work / "incomplete"
    if vocab_size < 0:
        raise PrepareError(
            f"--vocab_size={vocab_size}: give a number of pieces, or 0 to let the texts decide"
        )
    builder = make_builder(name, incomplete, **options)
    final = data_dir / name / str(builder.version)
    if final.exists() and not overwrite:  # before the lock: the folder may be read-only
        _require_same(final, builder, manual_dir, vocab_size)
        print(f"{final} is already prepared; --overwrite prepares it again")
        return final
    with locked(work, "--data_dir"):
        shutil.rmtree(incomplete, ignore_errors=True)  # left by a killed process
        if final.exists() and not overwrite:
            raise PrepareError(f"{final} has just been prepared by another process")
        builder = make_builder(name, incomplete, **options)  # the first one has seen what was removed
        start = time.monotonic()
        try:
            source = Source()
            if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
                source = builder.read_source(_require_manual_dir(builder, name, manual_dir))
            write_records(builder, manual_dir)
            folder = Path(builder.data_dir)
            write_clips(builder, folder)
            if "train" in builder.info.splits:  # other datasets are only for translation
                write_tokenizer(folder, vocab_size, builder.language)
            write_dataset_facts(
                folder,
                **options_of(builder, vocab_size),
                jpeg_quality=JPEG_QUALITY,
                frame_size=builder.frame_size,
                source=source,
            )
            if builder.points and not builder.text_only:
                write_keypoints(builder, folder)
            final.parent.mkdir(exist_ok=True)
            if final.exists():
                final.rename(incomplete / "replaced")
            folder.rename(final)
        finally:
            shutil.rmtree(incomplete, ignore_errors=True)
        print(f"prepared {final} in {time.monotonic() - start:.0f} s")
        _print_summary(builder.info, final)
        return final


def verify(name: str, data_dir: Path) -> None:
    """Compare every file of a prepared dataset with its digest.

    Raises:
        UserError: There is no such dataset, or files are gone or damaged; all of them are named.
    """
    dataset = find_dataset(data_dir, name)
    damaged = damaged_files(dataset)
    if damaged:
        raise PrepareError(
            f"{_count(damaged, 'file')} of {dataset.folder} gone or damaged: {', '.join(damaged)}; bring the "
            "folder back, or prepare it again with --overwrite"
        )
    print(f"{dataset.folder} is as it was prepared, fingerprint {dataset.facts.fingerprint}")


def check(name: str, manual_dir: Path | None, **options: Any) -> None:
    """Read everything that `prepare` would read, and print oddities.

    Raises:
        UserError: There are problems, which are printed, or an option is not allowed.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        builder = make_builder(name, Path(nowhere), **options)
        if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise PrepareError(f"{name} is generated: there is nothing to check")
        try:
            splits = builder.check(_require_manual_dir(builder, name, manual_dir))
        except AnnotationError as error:  # from a table, before any video is read
            _refuse(name, error.args)
    _print_oddities({split: found.odd for split, found in splits.items()}, _NAMES_CHECKED)
    unreadable = [file for found in splits.values() for file in found.unreadable]
    if unreadable:
        print(f"odd: {_count(unreadable, 'file')}: not an image: {listed(unreadable, _NAMES_CHECKED)}")
    if problems := [problem for found in splits.values() for problem in found.problems]:
        _refuse(name, problems)
    print(f"{name} can be prepared")


def _refuse(name: str, problems: Sequence[object]) -> NoReturn:
    for problem in problems:
        print(f"problem: {problem}")
    raise PrepareError(f"{_count(problems, 'problem')}: {name} cannot be prepared")


def _require_same(folder: Path, builder: "VideoQaBuilder", manual_dir: Path | None, vocab_size: int) -> None:
    """Raise PrepareError if a dataset comes from other files or options."""
    remedy = "prepare it again with --overwrite, or choose another --data_dir"
    try:
        facts = read_facts(folder)
    except BROKEN_FACTS:
        raise PrepareError(f"{folder} does not say how it was prepared: {remedy}") from None
    if found := differences(facts, builder, manual_dir, vocab_size):
        lines = "\n  ".join(found)
        raise PrepareError(f"{folder} is already prepared, from something else:\n  {lines}\n{remedy}")


def _require_manual_dir(builder: "VideoQaBuilder", name: str, manual_dir: Path | None) -> Path:
    if manual_dir is None:
        raise PrepareError(
            f"{name} is read from files that you have: name their folder with --manual_dir. "
            f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    if not manual_dir.is_dir() or not any(manual_dir.iterdir()):
        raise PrepareError(
            f"--manual_dir={manual_dir} is not a folder, or it is empty. "
            f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    return manual_dir


def _print_summary(info: Any, folder: Path) -> None:
    """Print the clips and frames of each split, and the oddities."""
    print(f"{'split':10}{'clips':>10}{'frames':>12}")
    for split in info.splits:
        num_frames = [clip["num_frames"] for clip in read_jsonl(folder / f"clips.{split}.jsonl")]
        print(f"{split:10}{len(num_frames):10,}{sum(num_frames):12,}")
    _print_oddities(info.metadata["odd"], most=3)


def _print_oddities(odd: Mapping[str, Mapping[str, Sequence[str]]], most: int) -> None:
    for split, oddities in odd.items():
        for what, names in oddities.items():
            print(f"odd in {split}: {_count(names, 'clip')}: {what}: {listed(names, most)}")


def _count(things: Sequence[Any], noun: str) -> str:
    return f"{len(things):,} {noun}{'s' * (len(things) != 1)}"


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.prepare",
        description="Turn a corpus of sign videos with questions into a dataset that run.py trains on.",
        epilog="example: python -m tfds_builders.prepare custom_qa --manual_dir=own --language=en_XX",
    )
    parser.add_argument("name", choices=DATASETS, help="the dataset; avatar_qa is rendered, others are read")
    parser.add_argument(
        "--manual_dir", type=user_path, help="folder of the release, or of your videos and clips.csv"
    )
    parser.add_argument(
        "--data_dir",
        type=user_path,
        default=Path("data"),
        help="folder of all prepared datasets (default: data)",
    )
    parser.add_argument(
        "--language", default="", help="mBART's code of the texts' language, such as en_XX; for custom_qa"
    )
    parser.add_argument(
        "--resize",
        default="",
        help="stored frames: 256 (square, default), short:256 (short side), crop:256 (middle square), none",
    )
    parser.add_argument(
        "--fps",
        type=float,
        help="frames per second taken from video files, or those in folders (default: 25, CSL-Daily 30)",
    )
    parser.add_argument("--num_workers", type=int, default=0, help="processes (default: one per core)")
    parser.add_argument(
        "--text_only",
        action="store_true",
        help="leave out the videos, for models that read only questions or features",
    )
    parser.add_argument(
        "--max_missing",
        type=float,
        default=0.01,
        help="share of a split's clips that may lack frames or texts (default: 0.01); one clip always may",
    )
    parser.add_argument(
        "--vocab_size", type=int, default=0, help="size of the tokenizer (default: by the texts)"
    )
    parser.add_argument("--overwrite", action="store_true", help="prepare an existing dataset again")
    parser.add_argument("--check", action="store_true", help="list all problems of the files, write nothing")
    parser.add_argument(
        "--verify", action="store_true", help="compare a prepared dataset with its digests, write nothing"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = vars(_parse_arguments(arguments))
    only_check, only_verify = options.pop("check"), options.pop("verify")
    try:
        if only_verify:
            verify(options["name"], options["data_dir"])
        elif only_check:
            del options["data_dir"], options["vocab_size"], options["overwrite"]
            check(**options)
        else:
            prepare(**options)
    except (UserError, OSError) as error:
        given = sys.argv[1:] if arguments is None else arguments
        again = f"\nOnce that is fixed, run again: python -m tfds_builders.prepare {shlex.join(given)}"
        if isinstance(error, (PrepareError, OptionError)):  # the command itself has to change
            again = ""
        raise SystemExit(f"error: {error}{again}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; nothing is left behind, run the same command again") from None


if __name__ == "__main__":
    set_up_output()
    main()
