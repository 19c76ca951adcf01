"""A trained model with everything that translation needs, from a workdir or a model folder.

A model folder holds `config.json`, `model.safetensors` and the tokenizer. All are data: none can run code.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config, to_dict
from sslssaw_jax.data.dataset import DatasetFacts
from sslssaw_jax.data.features import FeatureSet, features_from_notes, features_notes
from sslssaw_jax.data.glosses import GlossVocabulary, WordVocabulary
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.data.saved_tokenizer import load_saved_tokenizer, save_tokenizer
from sslssaw_jax.errors import UserError
from sslssaw_jax.evaluation.choices import require_choices
from sslssaw_jax.evaluation.understanding import UNDERSTANDING
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.systems import SYSTEMS, read_config
from sslssaw_jax.training.checkpoints import restore_params
from sslssaw_jax.training.progress import announce
from sslssaw_jax.training.stage_folders import announce_unfinished
from sslssaw_jax.types import BLEU_4, TrainState
from sslssaw_jax.weights.initial_state import dotted, replace_all_variables, variables
from sslssaw_jax.workdir import (
    CHECKPOINTS,
    FINISHED,
    METRICS,
    TEXT_TOWER,
    TOKENIZER,
    read_json,
    read_notes,
    saved_steps,
    write_json,
)

MODEL_CONFIG, MODEL_WEIGHTS = "config.json", "model.safetensors"
VOCABULARIES = tuple(one.file(Path()).name for one in (GlossVocabulary, WordVocabulary))
# nothing else is read
MODEL_FILES = (MODEL_CONFIG, MODEL_WEIGHTS, f"{TOKENIZER}/*", f"{TEXT_TOWER}/*", *VOCABULARIES)


class ModelError(UserError):
    """An error about a folder that holds no model, or one that cannot be used."""


class TrainedModel(NamedTuple):
    """A model that translates, and what is known about its training."""

    config: Config
    facts: DatasetFacts  # about the dataset on which it was trained
    tokenizer: Tokenizer
    stage: Stage
    state: TrainState
    scores: dict[str, Any]  # of dev and test, as in metrics.json; empty if never evaluated
    features: list[FeatureSet]  # that it reads, in order: keypoints with frames, or others in their place
    glosses: GlossVocabulary | None = None  # of a stage that reads glosses

    @property
    def threshold(self) -> float:
        """Return the score below which nothing is understood.

        Without an evaluation it is unknown, and everything counts as understood.
        """
        return self._understanding.get("threshold", -math.inf)

    @property
    def shortest(self) -> int:
        """Return the least frames of a clip that is understood."""
        return self._understanding.get("shortest", 0)

    @property
    def _understanding(self) -> dict[str, Any]:
        return self.scores.get(self.config.data.dev_split, {}).get(UNDERSTANDING, {})


def is_model(folder: Path) -> bool:
    """Return whether a folder holds a finished or saved model that translates."""
    finished = (folder / FINISHED).is_file() and read_notes(folder)["stage"] == "translate"
    return finished or all((folder / name).is_file() for name in (MODEL_CONFIG, MODEL_WEIGHTS))


def load(folder: Path) -> TrainedModel:
    """Load the model in a workdir or a model folder."""
    return load_workdir(folder) if saved_steps(folder / CHECKPOINTS) else load_folder(folder)


def load_workdir(workdir: Path) -> TrainedModel:
    """Load the best checkpoint of a run.

    Raises:
        CheckpointError: The workdir holds no checkpoint.
        ModelError: The run's last stage does not translate.
        UserError: The configuration or the tokenizer is unusable.
    """
    params, batch_stats, meta = restore_params(workdir / CHECKPOINTS, best_by=BLEU_4)
    metrics = workdir / METRICS
    trees = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(batch_stats)
    arrays = {dotted(path): array for path, array in trees.items()}
    scores = read_json(metrics) if metrics.exists() else {}
    model = _assemble(workdir, meta, arrays, scores)
    require_choices(model.stage, workdir)
    announce_unfinished(workdir)
    if model.stage.reads_video and not scores and (workdir / FINISHED).exists():
        announce(
            f"{workdir} has not been evaluated: each of its sentences counts as understood, until "
            "run.py --mode=eval finds the threshold"
        )
    return model


def load_folder(folder: Path) -> TrainedModel:
    """Load a model folder.

    Raises:
        ModelError: A file is missing or unreadable.
        WeightsError: The weights do not fit the configuration.
        UserError: The configuration or the tokenizer is unusable.
    """
    try:
        notes = read_json(folder / MODEL_CONFIG)
        arrays = load_file(folder / MODEL_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{folder} is not the folder of a model: {error}. A run has its model in {CHECKPOINTS}/, once "
            f"one is saved; `Translator.save_pretrained` writes {MODEL_CONFIG}, {MODEL_WEIGHTS} and "
            f"{TOKENIZER}/"
        ) from error
    required = {"config", "dataset", "tokenizer", "scores", "features"}
    if not isinstance(notes, dict) or not required <= notes.keys():
        raise ModelError(f"{folder / MODEL_CONFIG} does not describe a model of sslssaw_jax")
    model = _assemble(folder, notes, arrays, notes["scores"])
    if model.stage.reads_video and not model.scores:
        announce(f"{folder} was saved without an evaluation: each of its sentences counts as understood")
    return model


def save_folder(model: TrainedModel, folder: Path) -> None:
    """Write a model folder that names no other folder of this machine."""
    config = model.config
    data = dataclasses.replace(config.data, data_dir="data", cache_dir=None, tokenizer=None)
    evaluation = dataclasses.replace(config.evaluation, question_only_run=None)
    config = dataclasses.replace(config, data=data, evaluation=evaluation, init_from=None)
    config = dataclasses.replace(config, compilation_cache="auto")
    notes = {
        "config": _without_files(to_dict(config)),
        "dataset": model.facts.to_json(),
        "tokenizer": model.tokenizer.fingerprints,
        "scores": model.scores,
        "features": features_notes(model.features),
    }
    # safetensors would write the bytes of any other layout as they lie
    arrays = {dotted(path): np.asarray(array, order="C") for path, array in variables(model.state).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(model.tokenizer, folder)
    if model.glosses:
        model.glosses.save(folder)
        notes["glosses"] = model.glosses.fingerprint
    save_file(arrays, folder / MODEL_WEIGHTS)
    write_json(folder / MODEL_CONFIG, notes)


def _without_files(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Clear the settings that name files of weights or sentences."""
    cleared = dict(settings)
    for key, value in settings.items():
        if isinstance(value, dict):
            cleared[key] = _without_files(value)
        elif key.endswith("weights") or key == "sentences":
            cleared[key] = None
    return cleared


def _assemble(
    folder: Path, notes: Mapping[str, Any], arrays: Mapping[str, np.ndarray], scores: dict[str, Any]
) -> TrainedModel:
    """Return the model of a folder with its weights.

    Args:
        folder: Holds the tokenizer.
        notes: The configuration, the dataset's facts and the tokenizer's fingerprint.
        arrays: Parameters and batch statistics by dotted name.
        scores: Of dev and test.
    """
    try:
        config = read_config(ml_collections.ConfigDict(notes["config"]))
    except ConfigError as error:
        raise ModelError(f"{folder} has settings that this version does not know: {error}") from error
    facts = DatasetFacts.from_json(notes["dataset"])
    tokenizer = load_saved_tokenizer(folder, facts.language)
    if tokenizer.fingerprints != notes["tokenizer"]:
        raise ModelError(
            f"{folder / TOKENIZER} is not the tokenizer of the model next to it ({tokenizer.fingerprints}, "
            f"trained with {notes['tokenizer']}): restore the model's own"
        )
    features = features_from_notes(notes["features"])
    vocabulary = SYSTEMS[config.system].vocabulary
    glosses = vocabulary.load(folder) if "glosses" in notes else None
    if glosses and glosses.fingerprint != notes["glosses"]:
        raise ModelError(
            f"{glosses.file(folder)} does not have the {glosses.what} of the model next to it: restore them"
        )
    inputs = StageInputs(
        tokenizer.vocab_size,
        tokenizer.text_tower.vocab_size,
        features=[one for one in features if not one.points],
        keypoints=[point for one in features for point in one.points],
        glosses=lambda: glosses or GlossVocabulary(),
    )
    alone = dataclasses.replace(config, init_from=None)  # it has been through the earlier stages
    stage = SYSTEMS[config.system].make_stages(alone, inputs)[-1]
    trained = notes.get("stage", stage.name)  # a model folder is always of the last stage
    if trained != stage.name or stage.translation is None:
        raise ModelError(
            f"{folder} is a run of the stage {trained}, which does not translate videos: name the run of the "
            "stage translate"
        )
    message = f"the weights in {folder} do not fit its configuration"
    state = replace_all_variables(stage.abstract_state(), arrays, message)
    return TrainedModel(config, facts, tokenizer, stage, state, scores, features, glosses)
