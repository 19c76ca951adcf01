"""Several processes as one run: each drives its own devices and decodes the frames that lie on them."""

import os
import sys
from typing import Any, NoReturn

import jax

from sslssaw_jax.config.checks import ConfigError

AUTO = "auto"  # an address that jax finds out itself: SLURM, Open MPI, Kubernetes, Cloud TPU


def join(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several; one that nobody counts among others stays alone.

    What is not given is taken from `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. All
    three are found out where the address is `auto`, or nothing is given and `srun` or `mpirun` has started
    more than one process. To be called before anything runs on a device.

    Args:
        coordinator_address: `host:port` of process 0, or `auto`.
        num_processes: of all hosts together.
        process_id: from 0 on; process 0 alone prints and writes files.

    Raises:
        ConfigError: only some of the three are known, or they cannot be.
    """
    given = {
        "coordinator_address": coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        "num_processes": _number("JAX_NUM_PROCESSES") if num_processes is None else num_processes,
        "process_id": _number("JAX_PROCESS_ID") if process_id is None else process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if given["coordinator_address"] == AUTO or (len(missing) == 3 and _launched_with_others()):
        jax.distributed.initialize()
    elif len(missing) == 3 or given["num_processes"] == 1:
        return
    elif missing:
        raise ConfigError(
            f"several processes need --{' and --'.join(missing)}, too; --coordinator_address={AUTO} finds all"
        )
    else:
        _check(**given)  # type: ignore[arg-type]
        jax.distributed.initialize(**given)  # type: ignore[arg-type]
    sys.excepthook = _leave_with_traceback
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - one process speaks for all


def leave(message: str) -> NoReturn:
    """Ends this process with a message, and so the whole run.

    One of several goes without the farewell that jax waits minutes for: the others, in the middle of a step,
    notice that it is gone.
    """
    if not jax.distributed.is_initialized():
        sys.exit(message)
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def _leave_with_traceback(*error: Any) -> NoReturn:
    sys.__excepthook__(*error)
    sys.stderr.flush()
    os._exit(1)


def _check(coordinator_address: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"coordinator_address is {coordinator_address!r}; it is host:port, or {AUTO}")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"process_id is {process_id}; of {num_processes} processes it is one from 0 on")


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    if value is not None and not value.isdigit():
        raise ConfigError(f"the environment variable {variable} is {value!r}; it must be a number")
    return None if value is None else int(value)


def _launched_with_others() -> bool:
    """Whether a launcher counts several; a shell inside an allocation is alone, whatever `SLURM_NTASKS`."""
    return any((_number(variable) or 1) > 1 for variable in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
