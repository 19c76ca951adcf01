"""Prepares a dataset: `python -m tfds_builders.prepare NAME --manual_dir=DIR --data_dir=DIR`.

`DATA_DIR/NAME/VERSION/` then holds the TFDS dataset (array_record), `clips.<split>.jsonl` (what is known of
each record without its video, in the records' order) and, where there is a train split, `tokenizer/`. The
folder appears by one rename, so it is whole or absent.
"""

import argparse
import contextlib
import fcntl
import io
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sslssaw_jax.data.dataset import write_dataset_facts
from sslssaw_jax.errors import UserError

# TFDS and the builders are imported where they are used: each process of a builder's pool imports this module
DEFAULT_VOCAB_SIZE = 2400  # besides single characters; about mBART's own, trimmed to PHOENIX-2014T


class PrepareError(UserError):
    """The dataset cannot be prepared; the message says what to do."""


def _avatar_qa(data_dir: Path, **options: Any) -> Any:
    from tfds_builders.avatar_qa.avatar_qa_dataset_builder import Builder

    return Builder(data_dir=data_dir)


def _custom_qa(data_dir: Path, **options: Any) -> Any:
    from tfds_builders.custom_qa.custom_qa_dataset_builder import Builder

    return Builder(data_dir=data_dir, **options)


def _csl_daily_qa(data_dir: Path, **options: Any) -> Any:
    from tfds_builders.csl_daily_qa.csl_daily_qa_dataset_builder import Builder

    return Builder(data_dir=data_dir, **options)


def _phoenix2014t_qa(data_dir: Path, **options: Any) -> Any:
    from tfds_builders.phoenix2014t_qa.phoenix2014t_qa_dataset_builder import Builder

    return Builder(data_dir=data_dir, **options)


BUILDERS: dict[str, Callable[..., Any]] = {
    "avatar_qa": _avatar_qa,
    "custom_qa": _custom_qa,
    "csl_daily_qa": _csl_daily_qa,
    "phoenix2014t_qa": _phoenix2014t_qa,
}


_LANGUAGES = {"phoenix2014t_qa": "de_DE", "csl_daily_qa": "zh_CN"}


def prepare(
    name: str,
    data_dir: Path,
    *,
    manual_dir: Path | None = None,
    resize: str = "256",
    fps: float = 25.0,
    num_workers: int = 0,
    text_only: bool = False,
    vocab_size: int = 0,
    overwrite: bool = False,
) -> Path:
    """Prepares a dataset unless it is there, prints what it holds, and returns its folder.

    Args:
      name: one of `BUILDERS`.
      data_dir: the folder of all prepared datasets.
      manual_dir: what a dataset reads that cannot be downloaded.
      resize: `256` (square), `short:256` (short side), `crop:256` (middle square) or `none`; of datasets
        that are read, not generated.
      fps: frames a second of video files; folders of frames are taken as they are.
      num_workers: processes; 0 is one a core.
      text_only: leave the videos out, for models of the question alone; of datasets of the literature.
      vocab_size: of the tokenizer, before the special tokens; fewer where the texts do not support it. 0 is
        `DEFAULT_VOCAB_SIZE` and the single characters of the texts.
      overwrite: prepare again what is there.

    Raises:
      PrepareError, ValueError: an argument cannot be.
      FileNotFoundError: an input is missing.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    incomplete = data_dir / f".incomplete-{name}"
    with _lock(data_dir / f".{name}.lock", name):
        if incomplete.exists():  # its process is dead: it would hold the lock
            shutil.rmtree(incomplete)
        builder = BUILDERS[name](
            incomplete, resize=resize, fps=fps, num_workers=num_workers, text_only=text_only
        )
        final = data_dir / name / str(builder.version)
        if final.exists() and not overwrite:
            print(f"{final} is prepared already; --overwrite prepares it again")
            return final
        start = time.monotonic()
        try:
            _build(builder, name, manual_dir)
            folder = Path(builder.data_dir)
            _write_clips(builder, folder)
            if "train" in builder.info.splits:  # else there is only something to translate
                _train_tokenizer(folder, vocab_size)
            write_dataset_facts(folder, language=_LANGUAGES.get(name, "en_XX"))
            final.parent.mkdir(exist_ok=True)
            if final.exists():
                final.rename(incomplete / "replaced")
            folder.rename(final)
        finally:
            shutil.rmtree(incomplete, ignore_errors=True)
        print(f"prepared {final} in {time.monotonic() - start:.0f} s")
        _print_summary(final)
        return final


def check(
    name: str,
    manual_dir: Path | None,
    *,
    resize: str = "256",
    fps: float = 25.0,
    num_workers: int = 0,
    text_only: bool = False,
) -> None:
    """Reads all that `prepare` would read, prints what is odd, and writes nothing.

    Raises:
      PrepareError: there are problems, which are printed.
      ValueError: an argument cannot be.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        builder = BUILDERS[name](
            Path(nowhere), resize=resize, fps=fps, num_workers=num_workers, text_only=text_only
        )
        if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise PrepareError(f"{name} is generated: there is nothing to check")
        problems, odd = builder.check(_require_manual_dir(builder, name, manual_dir))
    for oddity in odd:
        print(f"odd: {oddity}")
    for problem in problems:
        print(f"problem: {problem}")
    if problems:
        raise PrepareError(f"{len(problems):,} problems: {name} cannot be prepared")
    print(f"{name} can be prepared; {len(odd):,} oddities")


@contextlib.contextmanager
def _lock(path: Path, name: str) -> Iterator[None]:
    """Held by one process at a time; the system frees it when its process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PrepareError(
                f"another process is preparing {name} in {path.parent}: wait until it has ended"
            ) from None
        yield


def _build(builder: Any, name: str, manual_dir: Path | None) -> None:
    import tensorflow_datasets as tfds

    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        _require_manual_dir(builder, name, manual_dir)
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS would announce the temporary folder
        builder.download_and_prepare(
            download_dir=Path(builder.data_dir_root) / "downloads",
            download_config=config,
            file_format="array_record",
        )


def _require_manual_dir(builder: Any, name: str, manual_dir: Path | None) -> Path:
    if manual_dir is None:
        raise PrepareError(
            f"{name} is read from files that you have: name their folder with --manual_dir. "
            f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    if not manual_dir.is_dir() or not any(manual_dir.iterdir()):
        raise PrepareError(
            f"--manual_dir={manual_dir} is no folder or an empty one. {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    return manual_dir


def _write_clips(builder: Any, folder: Path) -> None:
    """`clips.<split>.jsonl`, read back from the records, so row i is record i."""
    import tensorflow_datasets as tfds

    known = {key: feature for key, feature in builder.info.features.items() if key != "video"}
    features = tfds.features.FeaturesDict(known)
    for split in builder.info.splits:
        with (folder / f"clips.{split}.jsonl").open("w", encoding="utf-8") as file:
            raw_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
            records = builder.as_data_source(split, deserialize_method=raw_bytes)
            for record in tqdm(records, f"listing {split}", unit="clip", leave=False):
                values = features.deserialize_example_np(record)
                clip = {key: _plain(values[key]) for key in known}
                file.write(json.dumps(clip, ensure_ascii=False) + "\n")


def _plain(value: Any) -> str | int | bool:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _read_clips(folder: Path, split: str) -> list[dict[str, Any]]:
    with (folder / f"clips.{split}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _train_tokenizer(folder: Path, vocab_size: int) -> None:
    from sslssaw_jax.data.mbart_tokenizer import train_tokenizer
    from sslssaw_jax.data.text import clean_question

    clips = _read_clips(folder, "train")
    texts = [text for clip in clips for text in (clip["target"], clean_question(clip["question"]))]
    num_characters = len(set().union(*texts))
    train_tokenizer(texts, folder / "tokenizer", vocab_size or DEFAULT_VOCAB_SIZE + num_characters)


def _print_summary(folder: Path) -> None:
    """Clips and frames of each split, and what was odd."""
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(folder).info
    print(f"{'split':10}{'clips':>10}{'frames':>12}")
    for split in info.splits:
        num_frames = [clip["num_frames"] for clip in _read_clips(folder, split)]
        print(f"{split:10}{len(num_frames):10,}{sum(num_frames):12,}")
    for split, oddities in info.metadata.get("odd", {}).items():
        for what, names in oddities.items():
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            print(f"odd in {split}: {len(names):,} clips: {what}: {shown}")


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.prepare", description="Prepares a dataset."
    )
    parser.add_argument("name", choices=BUILDERS)
    parser.add_argument("--manual_dir", type=Path, help="the release's folder, of datasets that are read")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="default: data")
    parser.add_argument(
        "--resize",
        default="256",
        help="256 (square, default), short:256 (short side), crop:256 (middle square), none",
    )
    parser.add_argument("--fps", type=float, default=25.0, help="of video files; default: 25")
    parser.add_argument("--num_workers", type=int, default=0, help="processes; default: one a core")
    parser.add_argument("--text_only", action="store_true", help="no video, for models of the question alone")
    parser.add_argument("--vocab_size", type=int, default=0, help="of the tokenizer")
    parser.add_argument("--overwrite", action="store_true", help="prepare again what is there")
    parser.add_argument("--check", action="store_true", help="list all problems of the files, write nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = vars(_parse_arguments(arguments))
    only_check = options.pop("check")
    try:
        if only_check:
            del options["data_dir"], options["vocab_size"], options["overwrite"]
            check(**options)
        else:
            prepare(**options)
    except (UserError, OSError) as error:
        given = sys.argv[1:] if arguments is None else arguments
        command = f"python -m tfds_builders.prepare {shlex.join(given)}"
        raise SystemExit(f"error: {error}\nOnce that is mended, run again: {command}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted; nothing is left behind, run the same command again") from None


if __name__ == "__main__":
    main()
