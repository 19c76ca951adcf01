"""The command `sslssaw`: one name for all commands; `python -m sslssaw_jax` is the same."""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """A command that a module runs."""

    module: str  # runs as `python -m MODULE`
    help: str
    first: tuple[str, ...] = ()  # arguments that come before those of the command line


COMMANDS = {
    "translate": Command("sslssaw_jax.inference", "answer questions about a video"),
    "app": Command("sslssaw_jax.inference.app", "serve a page with a camera: ask, sign, read"),
    "demo": Command("run", "render avatar_qa, train the demo on it and write its report"),
    "prepare": Command("tfds_builders.prepare", "turn a corpus or your own videos into a dataset"),
    "features": Command("tfds_builders.features", "import features or poses to use in place of frames"),
    "inspect": Command("sslssaw_jax.report.dataset_report", "show what a dataset contains"),
    "train": Command("run", "train, evaluate and report: --config=configs/NAME.py"),
    "eval": Command("run", "evaluate the best checkpoint again: --config=configs/NAME.py", ("--mode=eval",)),
    "tables": Command("sslssaw_jax.tables", "train and draw the paper's tables"),
    "report": Command("sslssaw_jax.report", "write the report of a run again"),
    "export": Command("sslssaw_jax.weights", "export a model for PyTorch", ("export",)),
}
ROOT = Path(__file__).parents[1]  # of this copy: its run.py and its configs/
CONFIG, DATA_DIR = "--config", "--config.data.data_dir"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names."""
    parser = argparse.ArgumentParser(
        prog="sslssaw",
        description="Question-based sign language translation: a video and a question in, a sentence out.",
        epilog="commands:\n"
        + "".join(f"  {name:11}{one.help}\n" for name, one in COMMANDS.items())
        + "\n`sslssaw COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    chosen = parser.parse_args(arguments)
    command = COMMANDS[chosen.command]
    first, rest = list(command.first), _joined(chosen.rest)
    if chosen.command == "demo":
        if {"--help", "-h"} & set(chosen.rest):
            print(f"sslssaw demo: {command.help}. It takes the flags of sslssaw train.\n")
        else:
            key = f"{DATA_DIR}="
            folders = [f"--data_dir={word.removeprefix(key)}" for word in rest if word.startswith(key)]
            _run("tfds_builders.prepare", ["avatar_qa", *folders])
        first = [f"--config={ROOT / 'configs/demo.py'}"]
    _run(command.module, [*first, *map(_with_installed_file, rest)])


def _joined(arguments: Sequence[str]) -> list[str]:
    """Join the flags that are read here with their values, `--config FILE`."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in (CONFIG, DATA_DIR):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _with_installed_file(argument: str) -> str:
    """Replace a `--config=configs/FILE` that is not here by the installed one."""
    flag, _, value = argument.partition("=")
    file = Path(value.partition(":")[0])
    if flag == CONFIG and file.parts[:1] == ("configs",) and not file.is_file() and (ROOT / file).is_file():
        return f"{CONFIG}={ROOT / value}"
    return argument


def _run(module: str, arguments: Sequence[str]) -> None:
    """Run a module as `python -m MODULE ARGUMENTS`."""
    sys.argv = [module, *arguments]
    if module == "run":  # by its path, since the current folder may hold a run.py, too
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
