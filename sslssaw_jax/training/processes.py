"""Several processes as one run, each with its own devices."""

import json
import os
import sys
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from sslssaw_jax.config.checks import ConfigError

AUTO = "auto"  # JAX finds the address: SLURM, Open MPI, Kubernetes, Cloud TPU


def initialize_processes(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> bool:
    """Join other processes if arguments, environment or launcher say so.

    Missing arguments are taken from `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. JAX
    finds all three if the address is `auto`, or if nothing is given and `srun` or `mpirun` has started more
    than one process. Call this function before anything runs on a device.

    Args:
        coordinator_address: `host:port` of process 0, or `auto`.
        num_processes: Number of processes on all hosts together.
        process_id: From 0 on; only process 0 prints and writes files.

    Returns:
        Whether there are other processes.

    Raises:
        ConfigError: Only some of the three are known, or one is not valid.
    """
    given = {
        "coordinator_address": coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        "num_processes": _number("JAX_NUM_PROCESSES") if num_processes is None else num_processes,
        "process_id": _number("JAX_PROCESS_ID") if process_id is None else process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if given["coordinator_address"] == AUTO or (len(missing) == 3 and _launched_with_others()):
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ConfigError(
                f"no launcher tells of the other processes ({error}): start with srun or mpirun, or give "
                "--coordinator_address=HOST:PORT, --num_processes and --process_id"
            ) from error
    elif len(missing) == 3 or given["num_processes"] == 1:
        return False
    elif missing:
        raise ConfigError(
            f"several processes need --{' and --'.join(missing)}, too, or --coordinator_address={AUTO}"
        )
    else:
        _check(**given)  # type: ignore[arg-type]
        jax.distributed.initialize(**given)  # type: ignore[arg-type]
    sys.excepthook = _exit_with_traceback
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - only process 0 prints
    return True


def require_alike(notes: Mapping[str, Any]) -> None:
    """Raise ConfigError unless all processes have the same notes.

    Args:
        notes: Of the run, as JSON, with the same keys in all processes.
    """
    texts = [json.dumps(note, sort_keys=True) for note in notes.values()]
    digests = np.array([zlib.crc32(text.encode()) for text in texts], np.uint32)
    by_process = multihost_utils.process_allgather(digests)
    for process, equal in enumerate(by_process == by_process[0]):
        if changed := [key for key, same in zip(notes, equal) if not same]:
            raise ConfigError(
                f"process {process} differs from process 0 in {', '.join(changed)}: start all with the same "
                "settings and code, on the same prepared data"
            )


def wait_for_all(what: str) -> None:
    """Wait for all processes; afterwards each sees the files of the first."""
    multihost_utils.sync_global_devices(what)


def exit_run(message: str) -> NoReturn:
    """End this process with a message, and thereby the whole run.

    If there are several processes, this one skips the shutdown of JAX, which would wait minutes for the
    others; in the middle of a step, they notice that a process is gone.
    """
    if not jax.distributed.is_initialized():
        sys.exit(message)
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def _exit_with_traceback(*error: Any) -> NoReturn:
    sys.__excepthook__(*error)
    sys.stderr.flush()
    os._exit(1)


def _check(coordinator_address: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"coordinator_address is {coordinator_address!r}; it must be host:port or {AUTO}")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"process_id is {process_id}; it must be 0 to {num_processes - 1}")


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    if value is not None and not value.isdigit():
        raise ConfigError(f"the environment variable {variable} is {value!r}; it must be a number")
    return None if value is None else int(value)


def _launched_with_others() -> bool:
    """Return whether a launcher started several processes.

    `SLURM_NTASKS` does not tell: a shell inside an allocation has it, too.
    """
    return any((_number(variable) or 1) > 1 for variable in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
