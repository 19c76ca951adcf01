"""Preparations of a dataset that are killed at chosen moments.

    python -m tests.support.killed_preparations FOLDER ARGUMENT...

Each moment has its own process, forked from this one, so that imports are paid for only once. It prepares
into `FOLDER/<moment>` with the arguments of `tfds_builders.prepare`. This process prints exit codes.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tfds_builders import prepare, video_qa_builder


def kill(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def among_the_clips() -> None:
    """Kill while workers read the clips of a split."""
    ordered_map = video_qa_builder.ordered_map

    def killed(*arguments: Any) -> Iterator[Any]:
        read = ordered_map(*arguments)
        yield next(read)
        kill()

    video_qa_builder.ordered_map = killed


def before_the_tokenizer() -> None:
    prepare.write_tokenizer = kill


def before_it_appears() -> None:
    """Kill when the old dataset has been moved away, and the new one is not yet in its place."""
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        return kill() if moved.name == "replaced" else moved

    Path.rename = renamed  # type: ignore[method-assign, assignment]


MOMENTS: tuple[Callable[[], None], ...] = (among_the_clips, before_the_tokenizer, before_it_appears)


def main(folder: Path, arguments: list[str]) -> None:
    for moment in MOMENTS:
        process = os.fork()
        if not process:
            moment()
            prepare.main([*arguments, f"--data_dir={folder / moment.__name__}"])
            os._exit(0)
        print(moment.__name__, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
