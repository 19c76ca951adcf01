"""Train, evaluate or translate: `python run.py --config=configs/phoenix_stage2.py`."""

import os
import sys
from logging import getLogger
from pathlib import Path

from sslssaw_jax.training.host_memory import keep_freed_memory
from sslssaw_jax.training.signals import Stopped, StopRequest

STOP = StopRequest()
if __name__ == "__main__":  # before the imports, which take a second
    keep_freed_memory()
    STOP.listen()

from absl import app, flags, logging
from ml_collections import config_flags

from sslssaw_jax.config.flags import check_config_file, explain_flags, read_config_file
from sslssaw_jax.errors import UserError, set_up_output
from sslssaw_jax.workdir import user_path

ROOT = Path(__file__).parent
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file in configs/. --config.GROUP.KEY=VALUE changes a setting; sslssaw_jax/config/ and "
    "sslssaw_jax/systems/ explain the settings.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run; runs/<config.name> by default.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "With several processes: host:port of process 0, or auto for SLURM and MPI."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With several processes: their number.")
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "With several processes: the number of this one, from 0."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ("train", "eval", "translate", "extract"),
    "train: train what is missing, then evaluate; eval: evaluate the best checkpoint; translate: test only; "
    "extract: write the features of all clips, the CNN's or S3D's, into the dataset.",
)
_FEATURES = flags.DEFINE_string("features", "", "With --mode=extract: the name of the feature set to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "With --mode=extract: replace a set of this name.")
_CLIPS = flags.DEFINE_multi_string(
    "clip",
    [],
    "With --mode=translate: the id of a clip of any split to translate and draw alone; repeatable.",
)


def main(argv: list[str]) -> None:
    """Run the experiment that the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}: flags begin with --")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # Orbax logs every file that it touches, and errors twice
        getLogger("jax").setLevel("WARNING")  # says why a GPU is not used
        sys.unraisablehook = lambda _: None  # and the writes that it gives up when a disk is full
    # TFDS and Orbax take seconds to import, and --help should not wait
    from sslssaw_jax.experiment import Experiment
    from sslssaw_jax.systems import read_config
    from sslssaw_jax.training.processes import exit_run, initialize_processes
    from sslssaw_jax.training.stage_folders import require_source

    try:
        config = read_config(_CONFIG.value)
        workdir = user_path(_WORKDIR.value or f"runs/{config.name}")
        if "init_from" in config_flags.get_override_values(flags.FLAGS["config"]):
            require_source(workdir, config.init_from)
        if initialize_processes(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value):
            STOP.leave_to_jax()
        Experiment(config, workdir, STOP).run(_MODE.value, _CLIPS.value, _FEATURES.value, _OVERWRITE.value)
    except (UserError, OSError) as error:
        exit_run(f"error: {error}")
    except Stopped as stopped:
        print(stopped)
        sys.exit(stopped.status)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse flags; end with one message for a wrong flag or file."""
    try:
        check_config_file(argv[1:], ROOT)
        return flags.FLAGS(argv)
    except UserError as error:
        sys.exit(f"error: {error}")
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        lines = explain_flags(error, argv[1:], read_config_file(argv[1:])).splitlines()
        if any(line.startswith("Traceback") for line in lines):  # of a config file: only its end is for users
            lines = [lines[0], lines[-1]]
        sys.exit("error: " + "\n  ".join(lines))


if __name__ == "__main__":
    set_up_output()
    app.run(main, flags_parser=parse_flags)
