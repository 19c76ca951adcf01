"""Trains, evaluates or translates: `python run.py --config=configs/phoenix_stage2.py`."""

import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from sslssaw_jax.config.experiment import flag_error
from sslssaw_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, a file in configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything goes; runs/<config.name> by default.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "Of several processes: host:port of process 0; auto: as SLURM or MPI says."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Of several processes: their number.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of several processes: which one this is, from 0 on.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ("train", "eval", "translate"),
    "train: train what is missing, then evaluate; eval: evaluate the best checkpoint; translate: test only.",
)
_CLIPS = flags.DEFINE_multi_string(
    "clip",
    [],
    "With --mode=translate: this clip alone, by its id in any split, and its heat map; repeatable.",
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}: flags begin with --")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # Orbax tells of every file it touches, and of errors twice
        sys.unraisablehook = lambda _: None  # and of what it was writing besides when a disk is full
    # JAX, Flax and TFDS take seconds to import: wrong flags of this program are reported before
    from sslssaw_jax.experiment import Experiment
    from sslssaw_jax.systems import read_config
    from sslssaw_jax.training.processes import exit_run, initialize_processes
    from sslssaw_jax.training.signals import Stopped

    try:
        config = read_config(_CONFIG.value)
        initialize_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        Experiment(config, Path(_WORKDIR.value or Path("runs") / config.name)).run(_MODE.value, _CLIPS.value)
    except (UserError, OSError) as error:
        exit_run(f"error: {error}")
    except Stopped as stopped:
        print(stopped)


def parse_flags(argv: list[str]) -> list[str]:
    """The arguments that are no flags; a wrong flag or config file ends the program with one message."""
    try:
        return flags.FLAGS(argv)
    except (UserError, flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        told = flag_error(error).splitlines()
        if any(line.startswith("Traceback") for line in told):  # of a config file: only its end is for users
            told = [told[0], told[-1]]
        sys.exit("error: " + "\n  ".join(told))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
