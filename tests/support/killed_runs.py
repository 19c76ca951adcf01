"""A toy experiment, started again and again in new processes that end at chosen moments.

    python -m tests.support.killed_runs DATA_DIR FOLDER EPOCHS NAME=MOMENT,MOMENT,...

The experiment in `FOLDER/<name>` gets one process for each moment, and one that is left alone. All are
forked from this one, so that imports are paid for only once. Process i prints into `<name>.<i>.<moment>.txt`;
`<name>.order.jsonl` has the clips of each step.
"""

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_collections
from absl import logging

from sslssaw_jax.data import clips as source
from sslssaw_jax.data.frames import FrameError
from sslssaw_jax.evaluation import runner as evaluation
from sslssaw_jax.experiment import experiment
from sslssaw_jax.systems import SYSTEMS, default_config, read_config
from sslssaw_jax.training import checkpoints as checkpointing
from sslssaw_jax.training import loop as train
from sslssaw_jax.training.signals import Stopped, StopRequest
from tests.support.toy_system import SYSTEM

KILL, TERMINATE = signal.SIGKILL, signal.SIGTERM
BROKEN = "train-005"


def toy_experiment(data_dir: Path, epochs: int) -> ml_collections.ConfigDict:
    """Return one stage of a quick system: evaluated epochs of 3 steps, a checkpoint every second step.

    It has what a restart could draw or count again: dropout, running statistics, an average.
    """
    SYSTEMS["toy"] = SYSTEM
    config = default_config("toy")
    config.data.update({"data_dir": str(data_dir), "image_size": 24, "max_frames": 32})
    config.data.update({"num_threads": 2, "skip_broken": 1})
    config.evaluation.num_heatmaps, config.logging.peak_tflops, config.logging.every_steps = 0, 1e-6, 1
    config.translate.update({"epochs": epochs, "eval_every": 1, "clips_per_batch": 8, "frame_budget": 160})
    config.translate.ema_decay = 0.9
    config.decode.update({"beams": 2, "max_new_tokens": 8})
    config.checkpoint.every_steps = 2
    return config


def before(owner: Any, name: str, calls: int, number: signal.Signals, at_once: bool = False) -> None:
    """Send a signal before the given call of a function; it may end the process at once."""
    function, left = getattr(owner, name), [calls]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
            if at_once:
                threading.Event().wait()  # a busy machine may let this thread go on for a while
        return function(*args, **kwargs)

    setattr(owner, name, interrupted)


def at_random(seed: int) -> None:
    """Kill up to 1.5 seconds after one of the first steps, and print where."""
    rng = random.Random(seed)
    steps_left = [rng.randint(1, 6)]
    shard_batch = train.shard_batch

    def kill() -> None:
        time.sleep(rng.uniform(0, 1.5))
        stack = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident or 0])
        print("killed in", *(frame.name for frame in stack if "sslssaw_jax" in frame.filename), flush=True)
        os.kill(os.getpid(), KILL)

    def counted(*args: Any) -> Any:
        steps_left[0] -= 1
        if steps_left[0] == 0:
            threading.Thread(target=kill, daemon=True).start()
        return shard_batch(*args)

    train.shard_batch = counted


MOMENTS: dict[str, Callable[[], None]] = {
    "after_a_step": partial(before, train.CountedStep, "__call__", 3, KILL),
    "in_a_save": partial(before, checkpointing.ocp.JsonCheckpointHandler, "finalize", 1, KILL),
    "in_an_evaluation": partial(before, evaluation, "shard_batch", 1, KILL),
    "before_the_scores_are_kept": partial(before, checkpointing.Checkpointer, "add_scores", 1, KILL),
    "before_the_mark": partial(before, experiment, "write_json", 1, KILL),
    "stopped_after_a_step": partial(before, train.CountedStep, "__call__", 2, TERMINATE),
    "stopped_in_an_evaluation": partial(before, evaluation, "shard_batch", 1, TERMINATE, at_once=True),
    "never": lambda: None,
}


def break_a_clip() -> None:
    decode_frames = source.decode_frames

    def broken(clip_id: str, *args: Any) -> None:
        if clip_id == BROKEN:
            raise FrameError(f"frame 0 of clip {clip_id} is not a readable JPEG")
        decode_frames(clip_id, *args)

    source.decode_frames = broken


def note_order(path: Path) -> None:
    """Write each step that begins, with its clips, to `path`."""
    step_fn = train.CountedStep.__call__

    def noted(self: Any, state: Any, batch: Any, *others: Any) -> Any:
        with path.open("a") as file:
            file.write(json.dumps([int(state.step) + 1, batch.index.tolist()]) + "\n")
        return step_fn(self, state, batch, *others)

    train.CountedStep.__call__ = noted  # type: ignore[method-assign]


def run(config: ml_collections.ConfigDict, workdir: Path, moment: str) -> None:
    logging.set_verbosity(logging.ERROR)
    note_order(workdir.with_name(f"{workdir.name}.order.jsonl"))
    break_a_clip()
    if moment.startswith("random"):
        at_random(int(moment.removeprefix("random")))
    else:
        MOMENTS[moment]()
    stop = StopRequest()
    stop.listen()
    try:
        experiment.Experiment(read_config(config), workdir, stop).run("train")
    except Stopped as stopped:
        print(stopped)
        sys.exit(stopped.status)


def main(data_dir: Path, folder: Path, epochs: int, name: str, moments: list[str]) -> None:
    config = toy_experiment(data_dir, epochs)
    config.compilation_cache = str(folder / "compiled")
    for number, moment in enumerate([*moments, "never"]):
        process = os.fork()
        if not process:
            output = (folder / f"{name}.{number}.{moment}.txt").open("w")
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            run(config, folder / name, moment)
            sys.exit()
        status = os.waitpid(process, 0)[1]
        print(name, moment, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    for chain in sys.argv[4:]:
        name, moments = chain.split("=")
        main(
            Path(sys.argv[1]),
            Path(sys.argv[2]),
            int(sys.argv[3]),
            name,
            list(filter(None, moments.split(","))),
        )
