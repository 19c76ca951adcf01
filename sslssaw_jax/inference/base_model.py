"""A trained model from which a run continues: where it is, and whether it fits."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config, differences, to_dict
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import Dataset
from sslssaw_jax.data.features import FeatureSet, features_notes
from sslssaw_jax.data.fitting import (
    require_fitting_data,
    require_fitting_features,
    require_known_characters,
)
from sslssaw_jax.inference.trained_model import TrainedModel, is_model, load
from sslssaw_jax.training.stage_folders import announce_other_clips
from sslssaw_jax.workdir import read_notes, user_path


def find_base(init_from: str | None, workdir: Path) -> TrainedModel | None:
    """Load the trained model that `config.init_from` names, if any.

    The name is that of a run next to the workdir, or a path.
    """
    for folder in [workdir.parent / init_from, user_path(init_from)] if init_from else []:
        if is_model(folder):
            return load(folder)
        if read_notes(folder).get("stage") == "translate":
            raise ConfigError(
                f"config.init_from is {init_from!r}, and {folder} is not finished: start its training "
                "command again, then this one"
            )
    return None


def require_fitting_base(
    base: TrainedModel,
    config: Config,
    dataset: Dataset,
    features: Sequence[FeatureSet],
    train_clips: ClipSource | None,
) -> None:
    """Raise ConfigError unless a run can continue from a model.

    Args:
        base: The model.
        config: Of the run; its `init_from` names the model.
        dataset: Of the run.
        features: The feature sets that the run reads.
        train_clips: The train split; None if clips are only translated.
    """
    name, data = f"config.init_from is {config.init_from!r}", config.data
    if config.stage != "translate":
        raise ConfigError(f"{name}, a finished translation model: leave out --config.stage={config.stage}")
    if data.tokenizer:
        raise ConfigError(f"{name}, which brings its own tokenizer: clear it with --config.data.tokenizer=")
    saved, now = to_dict(base.config), to_dict(config)
    changed = [
        line
        for line in differences(_architecture(saved), _architecture(now))
        if not re.match(r"\S*(dropout|weights|pretrained_layers|sentences): ", line)
    ]
    if changed:
        raise ConfigError(f"{name}, a model with other settings; use its own:\n  " + "\n  ".join(changed))
    folder, reads_video = Path(str(config.init_from)), base.stage.reads_video
    require_fitting_data(
        folder,
        base.facts.to_json(),
        dataset,
        reads_video=reads_video,
        reads_frames=reads_video and not data.features,
        trains=False,
    )
    announce_other_clips(folder, base.config.data.dataset, base.facts.fingerprint, dataset, data)
    require_fitting_features(folder, features_notes(base.features), dataset, features, trains=False)
    if train_clips:
        require_known_characters(name, train_clips, base.tokenizer)


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a model's weights depend on."""
    data = {key: config["data"][key] for key in ("image_size", "crop_fraction", "features")}
    return {"system": config["system"], "model": config["model"], "data": data}
