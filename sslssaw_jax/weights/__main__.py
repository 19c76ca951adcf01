"""`python -m sslssaw_jax.weights trim|export`: pretrained mBART made small, and trained models taken out."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sslssaw_jax.errors import UserError


def _trim(options: argparse.Namespace) -> str:
    from sslssaw_jax.data.dataset import find_dataset
    from sslssaw_jax.weights.mbart import PRETRAINED
    from sslssaw_jax.weights.torch_files import WeightsError, resolve
    from sslssaw_jax.weights.trim import read_texts, trim

    if options.texts:
        kept = reported = {str(file): read_texts(file, options.glosses) for file in options.texts}
    else:
        dataset = find_dataset(options.data_dir, options.dataset)
        reported = {split: read_texts(dataset.clips_file(split), options.glosses) for split in dataset.splits}
        kept = {"train": reported["train"]}
    try:
        model = resolve(options.model)
    except WeightsError as error:
        raise WeightsError(
            f"{error}\nDownload config.json, sentencepiece.bpe.model and pytorch_model.bin of {PRETRAINED} "
            f"from https://huggingface.co/{PRETRAINED} into a folder, and name it with --model"
        ) from error
    return f"{trim(model, kept, reported, options.out)}\nwritten: {options.out}"


def _export(options: argparse.Namespace) -> str:
    from sslssaw_jax.weights.export import export

    export(options.workdir, options.out, options.tokenizer)
    return f"written: {options.out}; its README.md says what is what"


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sslssaw_jax.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    trim = commands.add_parser("trim", help="keep the tokens of mBART that a dataset uses")
    trim.set_defaults(run=_trim)
    trim.add_argument("--model", required=True, help="folder or Hugging Face name of an mBART")
    source = trim.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="a prepared dataset: its train split decides what is kept")
    source.add_argument(
        "--texts", type=Path, nargs="+", help="files of a sentence a line, or clips.<split>.jsonl"
    )
    trim.add_argument("--data_dir", type=Path, default=Path("data"), help="of --dataset; default: data")
    trim.add_argument("--glosses", action="store_true", help="keep the tokens of glosses, too")
    trim.add_argument("--out", type=Path, required=True, help="the folder to write")

    export = commands.add_parser("export", help="take a trained model out, its mBART part for PyTorch")
    export.set_defaults(run=_export)
    export.add_argument("--workdir", type=Path, required=True, help="of a run of stage 1 or 2")
    export.add_argument("--out", type=Path, required=True, help="the folder to write")
    export.add_argument("--tokenizer", type=Path, help="its folder, where it has moved since the training")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse_arguments(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file it touches
    try:
        print(options.run(options))
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
