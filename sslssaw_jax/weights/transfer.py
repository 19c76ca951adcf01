"""Parameters of one model set into another: how a stage starts from the one before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from sslssaw_jax.training.checkpoints import CheckpointError, restore_params
from sslssaw_jax.types import BLEU_4, TrainState

# module of this stage <- module of the stage before, or of the weights read
CNN_ALONE = {"video.cnn": "cnn"}
STAGE_2_OF_STAGE_1 = {
    "embedding": "embedding",
    "text_encoder": "text_encoder",  # of mBERT; mBART's question embedding is the bare embedding
    "video": "video",
    "encoder": "video_encoder",
    "decoder": "decoder",
}


def transfer(
    state: TrainState,
    directory: Path,
    modules: Mapping[str, str],
    *,
    tokenizer: str | None = None,
    best: bool = False,
) -> TrainState:
    """`state` with the named modules' parameters and statistics taken from the checkpoints in `directory`.

    Args:
        state: gets new values, where it lies on the devices.
        directory: the checkpoints of another run.
        modules: dotted names of modules here and there. One that this model does not have (no video where
            only the question is read) is left out.
        tokenizer: fingerprint of the tokenizer that the checkpoint must have been trained with.
        best: take the best checkpoint, not the latest.

    Raises:
        CheckpointError: nothing is saved there, it was trained with another tokenizer, or a parameter is
            missing or of another shape.
    """
    donor_params, donor_stats, meta = restore_params(directory, best_by=BLEU_4 if best else None)
    if tokenizer is not None and meta["tokenizer"] != tokenizer:
        raise CheckpointError(
            f"the model in {directory} was trained with another tokenizer ({meta['tokenizer']}, now "
            f"{tokenizer}): set data.tokenizer to that one, or choose another init_from or workdir"
        )
    return fill(state, donor_params, donor_stats, modules, f"the model in {directory}")


def fill(
    state: TrainState,
    donor_params: dict[str, Any],
    donor_stats: dict[str, Any],
    modules: Mapping[str, str],
    donor_name: str,
) -> TrainState:
    """`state` with the named modules taken from nested dicts of arrays; `modules` as in `transfer`.

    Raises:
        CheckpointError: a parameter is missing or of another shape.
    """
    problems: list[str] = []

    def filled(variables: nnx.State, donor: dict[str, Any]) -> nnx.State:
        own = nnx.to_pure_dict(variables)
        for path, donor_path in modules.items():
            own = _replace(own, path.split("."), _find(donor, donor_path.split(".")), path, problems)
        new = jax.tree.map(lambda x: x, variables)
        nnx.replace_by_pure_dict(new, own)
        return new

    params, batch_stats = filled(state.params, donor_params), filled(state.batch_stats, donor_stats)
    if problems:
        shown = "\n  ".join(problems[:12])
        raise CheckpointError(f"{donor_name} does not fit this one:\n  {shown}")
    return state.replace(params=params, batch_stats=batch_stats)  # type: ignore[attr-defined]


def _find(tree: Any, path: list[str]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _replace(own: Any, path: list[str], new: Any, name: str, problems: list[str]) -> Any:
    """`own` with the subtree at `path` replaced by `new`, leaf by leaf; what does not fit is noted."""
    if path:
        if path[0] not in own:
            return own
        return {**own, path[0]: _replace(own[path[0]], path[1:], new, name, problems)}
    if isinstance(own, dict):
        donor = new if isinstance(new, dict) else {}
        problems += [f"{name}.{key}: not in this model" for key in donor.keys() - own.keys()]
        return {
            key: _replace(value, [], donor.get(key), f"{name}.{key}", problems) for key, value in own.items()
        }
    if new is None or new.shape != own.shape:
        found = "missing" if new is None else f"of shape {new.shape}"
        problems.append(f"{name}: {found} there, of shape {own.shape} here")
        return own
    return jax.device_put(new, own.sharding)
