"""Training runs of one weight that get SIGTERM at chosen moments.

    python -m tests.support.stopped_runs DATA_DIR FOLDER

Each moment has its own process, forked from this one, so that imports are paid for only once, and trains in
`FOLDER/<moment>`. Its output is in `FOLDER/<moment>.txt`; this process prints moments and exit codes.
"""

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.checkpoints import Checkpointer
from sslssaw_jax.training.signals import Stopped
from tests.support.one_weight import STAGE, Brightness, Run, brightness_loss


def stops(output: str) -> list[str]:
    """Return the lines that say where a run stopped; a thread's notice may come before or after."""
    return [line for line in output.splitlines() if line.startswith("stopped by")]


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def terminate_here() -> None:
    """Send the signal where it ends the process immediately."""
    terminate()
    threading.Event().wait()  # a busy machine may let this thread go on for a while


def terminate_in_native_code() -> None:
    """Send the signal while this thread runs no Python for minutes, as in a compilation."""
    threading.Timer(0.1, terminate).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


def once(what: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, with an action before its first call."""
    left = [what]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if left:
            left.pop()()
        return function(*args, **kwargs)

    return wrapped


def in_initialization(run: Run) -> Stage:
    return Stage("translate", once(terminate_here, Brightness), brightness_loss)


def in_tracing(run: Run) -> Stage:
    return Stage("translate", Brightness, once(terminate_here, brightness_loss))


def in_native_code(run: Run) -> Stage:
    return Stage("translate", Brightness, once(terminate_in_native_code, brightness_loss))


def in_a_save(run: Run) -> Stage:
    Checkpointer.save = once(terminate, Checkpointer.save)  # type: ignore[method-assign]
    return STAGE


def in_the_first_evaluation(run: Run) -> Stage:
    run.evaluate = once(terminate_in_native_code, run.evaluate)  # type: ignore[method-assign]
    return STAGE


def after_training(run: Run) -> Stage:
    return STAGE


MOMENTS = (
    in_initialization,
    in_tracing,
    in_native_code,
    in_a_save,
    in_the_first_evaluation,
    after_training,
)


def main(data_dir: Path, folder: Path) -> None:
    for moment in MOMENTS:
        name = moment.__name__
        process = os.fork()
        if not process:
            output = (folder / f"{name}.txt").open("w")
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            run = Run(ClipSource(find_dataset(data_dir, "avatar_qa"), "train"), folder / name)
            run.stop.listen()
            try:
                run(moment(run))
            except Stopped as stopped:
                print(stopped)
                sys.exit(stopped.status)
            terminate_in_native_code()
        print(name, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
