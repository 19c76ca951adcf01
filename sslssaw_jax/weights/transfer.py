"""Modules of a trained model as initial weights for the next stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from sslssaw_jax.training.checkpoint_damage import Arrays
from sslssaw_jax.training.checkpoints import restore_params, variable_shapes
from sslssaw_jax.types import SelectionMetric, TrainState
from sslssaw_jax.weights.initial_state import (
    InitialWeights,
    KeyPath,
    Shape,
    WeightsError,
    dotted,
    replace_variables,
    require_same,
    variables,
)


def trained_modules(
    directory: Path,
    modules: Mapping[str, str] | None = None,
    *,
    tokenizer: str | None = None,
    best_by: SelectionMetric | None = None,
) -> InitialWeights:
    """Return the function that copies modules from the checkpoints in `directory`.

    The function raises CheckpointError if nothing is saved there, and WeightsError if the checkpoint was
    trained with another tokenizer, or a variable is missing, has no place, or has another shape.

    Args:
        directory: The checkpoints of another run.
        modules: Dotted names of modules there, by the names here; by default all modules under the same
            names. A module that this model does not have (the video if only the question is read) is left
            out.
        tokenizer: Fingerprint that the checkpoint's tokenizer must have.
        best_by: Metric that chooses the best checkpoint, to use instead of the latest.
    """

    def copy(state: TrainState) -> TrainState:
        own, sources = variables(state), dict[KeyPath, KeyPath]()  # path here -> path there

        def check(folder: Path, meta: dict[str, Any], saved: Arrays) -> None:
            if tokenizer is not None and meta["tokenizer"] != tokenizer:
                raise WeightsError(
                    f"the model in {directory} was trained with another tokenizer ({meta['tokenizer']}, now "
                    f"{tokenizer}): set config.data.tokenizer to that one, or choose another model"
                )
            donor = variable_shapes(saved)
            wanted: dict[str, Shape] = {}
            sources.clear()
            for here, there in (modules or {path[0]: path[0] for path in own}).items():
                prefix, donor_prefix = tuple(here.split(".")), tuple(there.split("."))
                within = {dotted(path): leaf.shape for path, leaf in own.items() if _starts(path, prefix)}
                if within:
                    wanted |= within
                    theirs = [path for path in donor if _starts(path, donor_prefix)]
                    sources.update({(*prefix, *path[len(donor_prefix) :]): path for path in theirs})
            found = {dotted(path): donor[theirs] for path, theirs in sources.items()}
            require_same(found, wanted, f"the model in {directory} does not fit this one")

        params, batch_stats, _ = restore_params(directory, best_by=best_by, check=check)
        donor = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(batch_stats)
        return replace_variables(state, ((path, donor[theirs]) for path, theirs in sources.items()))

    return copy


def _starts(path: KeyPath, prefix: KeyPath) -> bool:
    return path[: len(prefix)] == prefix
