"""Trim a pretrained mBART to a dataset, or export a trained model."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from sslssaw_jax.errors import ends_in_one_line, set_up_output
from sslssaw_jax.workdir import user_path

_TRIM = """Keep the tokens of mBART that a dataset uses.

  python -m sslssaw_jax.weights trim --model=facebook/mbart-large-cc25 \\
      --dataset=phoenix2014t_qa --out=pretrained/mbart_trimmed"""
_EXPORT = """Export the best checkpoint of a run: all of it as safetensors, and its mBART part for PyTorch.

  python -m sslssaw_jax.weights export --workdir=runs/demo --out=exported/demo"""


def _trim(options: argparse.Namespace) -> str:
    from sslssaw_jax.data.dataset import find_dataset
    from sslssaw_jax.weights.initial_state import WeightsError
    from sslssaw_jax.weights.mbart import PRETRAINED
    from sslssaw_jax.weights.torch_files import find_model
    from sslssaw_jax.weights.trim import read_texts, trim

    if options.texts:
        kept = reported = {str(file): read_texts(file, options.glosses) for file in options.texts}
        language = name = ""
    else:
        dataset = find_dataset(options.data_dir, options.dataset)
        if "train" not in dataset.splits:
            raise WeightsError(
                f"{dataset.folder} has {', '.join(dataset.splits)}, but no train split, whose tokens "
                "would be kept: name files of sentences with --texts"
            )
        reported = {split: read_texts(dataset.clips_file(split), options.glosses) for split in dataset.splits}
        kept, language, name = {"train": reported["train"]}, dataset.language, dataset.name
    try:
        model = find_model(options.model)
    except WeightsError as error:
        raise WeightsError(
            f"{error}\nDownload config.json, sentencepiece.bpe.model and pytorch_model.bin of {PRETRAINED} "
            f"from https://huggingface.co/{PRETRAINED} into a folder, and name it with --model"
        ) from error
    return f"{trim(model, kept, reported, options.out, language, name)}\nwritten: {options.out}"


def _export(options: argparse.Namespace) -> str:
    from sslssaw_jax.weights.export import export

    export(options.workdir, options.out)
    return f"written: {options.out}; its README.md lists the files and tensors"


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sslssaw_jax.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, description: str, run: object) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=description.splitlines()[0],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        command.add_argument("--out", type=user_path, required=True, help="folder to write")
        return command

    trim = add("trim", _TRIM, _trim)
    trim.add_argument("--model", required=True, help="folder or Hugging Face name of an mBART")
    source = trim.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="prepared dataset whose train split decides what is kept")
    source.add_argument(
        "--texts", type=user_path, nargs="+", help="files with one sentence per line, or clips.<split>.jsonl"
    )
    trim.add_argument(
        "--data_dir", type=user_path, default=Path("data"), help="parent folder of --dataset (default: data)"
    )
    trim.add_argument("--glosses", action="store_true", help="also keep the tokens of glosses")

    export = add("export", _EXPORT, _export)
    export.add_argument("--workdir", type=user_path, required=True, help="workdir of a run of stage 1 or 2")
    return parser.parse_args(arguments)


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and print its result."""
    options = _parse_arguments(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every file it reads
    print(options.run(options))


if __name__ == "__main__":
    set_up_output()
    main()
