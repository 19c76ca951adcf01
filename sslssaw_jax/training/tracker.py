"""Experiment trackers that receive what TensorBoard gets: trackio, and Weights & Biases."""

import secrets
from pathlib import Path
from typing import Any, Protocol

from sslssaw_jax.config.experiment import Config, to_dict
from sslssaw_jax.errors import UserError
from sslssaw_jax.workdir import TRACKER_ID, is_first_process, write_text

PROJECT = "sslssaw_jax"


class TrackerError(UserError):
    """An error about a tracker that cannot start."""


class Tracker(Protocol):
    """A run in a tracker, with what both packages have in common."""

    def log(self, values: dict[str, Any], /, *, step: int) -> Any:
        """Log the values of a step."""

    def finish(self) -> Any:
        """Write what is left and end the run."""


class _Wandb:
    """A run of wandb with steps of its own: wandb drops values of a step before its last.

    After a restart, scores on dev may belong to such a step.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def log(self, values: dict[str, Any], /, *, step: int) -> None:
        self._run.log(values | {"step": step})

    def finish(self) -> None:
        self._run.finish()


def start_tracker(config: Config, workdir: Path, stage: str) -> Tracker | None:
    """Start or resume the run of this workdir in `config.tracker`.

    Args:
        config: Names the tracker; the tracker shows all settings.
        workdir: Keeps the run's id, so that a restart continues the same run. wandb writes here, too.
        stage: Part of the run's name.

    Returns:
        The run; None without a tracker, and in all processes but the first.

    Raises:
        TrackerError: The package is not installed, or its service refuses.
    """
    if config.tracker == "none" or not is_first_process():
        return None
    path, settings = workdir / TRACKER_ID, to_dict(config)
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    run_id = path.read_text(encoding="utf-8")
    name = f"{workdir.name}-{stage}-{run_id}"
    try:
        if config.tracker == "trackio":
            import trackio

            return trackio.init(PROJECT, name=name, config=settings, resume="allow", embed=False)
        import wandb

        return _Wandb(
            wandb.init(project=PROJECT, name=name, id=run_id, config=settings, resume="allow", dir=workdir)
        )
    except ModuleNotFoundError as error:
        raise TrackerError(
            f"config.tracker is {config.tracker!r}, but the package {error.name!r} is not installed: "
            f"pip install {config.tracker}, or continue with --config.tracker=none"
        ) from None
    except Exception as error:  # each package has its own kinds of errors
        raise TrackerError(
            f"config.tracker is {config.tracker!r}, which does not start: {error}\n--config.tracker=none "
            "continues without it, and wandb needs no account with WANDB_MODE=offline"
        ) from error
