"""The folders of a run's stages, one trained after the other."""

from collections.abc import Sequence
from pathlib import Path

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.dataset import Dataset
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.systems import SYSTEMS
from sslssaw_jax.training.progress import announce
from sslssaw_jax.workdir import CHECKPOINTS, FINISHED, saved_steps, user_path


def stage_folders(stages: Sequence[Stage], workdir: Path, init_from: str | None) -> list[Path]:
    """Return the folder of each stage.

    The last stage is trained in the workdir, a shared stage in the folder `init_from` next to the workdir,
    any other stage in a folder of its name inside that of the next stage.

    Raises:
        ConfigError: The shared folder is the workdir.
    """
    folders = [workdir]
    for stage in reversed(stages[:-1]):
        shared = workdir.parent / init_from if stage.shared and init_from else None
        if shared and shared.resolve() == workdir.resolve():
            raise ConfigError(
                f"config.init_from is {init_from!r}, the workdir itself, but {stage.name} needs a folder "
                f"of its own: name another --workdir, or init_from={workdir.name}_stage1"
            )
        folders.insert(0, shared or folders[0] / stage.name)
    return folders


def require_source(workdir: Path, init_from: str | None) -> None:
    """Raise ConfigError if `init_from` names a folder that does not exist.

    A stage 1 yet to be trained is named after the workdir, unless the configuration file names one.
    """
    own = f"{workdir.name}_stage1"
    places = (workdir.parent / (init_from or ""), user_path(init_from or ""))
    if init_from and init_from != own and not any(place.exists() for place in places):
        beside = sorted(path.parent.name for path in workdir.parent.glob(f"*/{FINISHED}"))
        raise ConfigError(
            f"config.init_from is {init_from!r}, but there is no {places[0]}; finished runs there: "
            f"{', '.join(beside) or 'none'}. A stage 1 yet to be trained must be named {own}"
        )


def plan_stages(config: Config, workdir: Path) -> list[tuple[Stage, Path]]:
    """Return the stages of a configuration with their folders, without a dataset."""
    stages = SYSTEMS[config.system].make_stages(config, StageInputs())
    return list(zip(stages, stage_folders(stages, workdir, config.init_from)))


def announce_unfinished(workdir: Path) -> None:
    """Print a message if the training of a workdir has not finished."""
    if saved_steps(workdir / CHECKPOINTS) and not (workdir / FINISHED).exists():
        announce(
            f"{workdir} has not finished its training: its best state so far is used; run its "
            "training command again to continue"
        )


def announce_other_clips(folder: Path, name: str, fingerprint: str, now: Dataset, data: DataConfig) -> None:
    """Print a message if a model may know the test clips.

    Args:
        folder: Of the trained model.
        name: The name of the dataset that it was trained on.
        fingerprint: Of that dataset.
        now: The dataset that it translates; without a train split, it holds only clips to translate.
        data: The settings that name the splits.
    """
    if name == now.name and fingerprint != now.facts.fingerprint and data.train_split in now.splits:
        announce(
            f"{folder} was trained on other clips of {name} than {now.folder} holds: if both are of "
            f"one corpus, clips of {data.test_split} here may have been in its {data.train_split}, and "
            "their scores too high"
        )
