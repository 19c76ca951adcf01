"""Pretrained mBART into our models, and its parts of ours out again, under Hugging Face's names.

Strict both ways: a tensor that is missing, has no place, or has another shape is an error that lists names.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.mbart_tokenizer import MODEL_FILE, Tokenizer, load_tokenizer
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.torch_files import Checkpoint, WeightsError, resolve

PRETRAINED = "facebook/mbart-large-cc25"
TRIMMED = "./pretrained/mbart_trimmed"  # where the shipped configurations expect it
KeyPath = tuple[str | int, ...]  # of a parameter in the model

# our modules of either stage <- the half of mBART that they are
HALVES = {
    "encoder": "encoder",
    "text_encoder": "encoder",
    "video_encoder": "encoder",
    "decoder": "decoder",
}
SHARED, HEAD, BIAS = "model.shared.weight", "lm_head.weight", "final_logits_bias"
INPUT_TABLES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
_EMBEDDING: dict[KeyPath, str] = {
    ("embed", "embedding"): SHARED,
    ("lm_head", "embedding"): HEAD,
    ("final_logits_bias",): BIAS,
}
_PARTS = {"input", "layers", "layer_norm"}  # of an encoder or decoder
_GROUPS = {"input", "feed_forward"}  # our modules around what Hugging Face keeps side by side
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_SHOWN_PROBLEMS = 20


def pretrained_mbart(config: Config, tokenizer: Tokenizer) -> Callable[[TrainState], TrainState]:
    """The function that puts `model.mbart.weights` into a state; all but shapes is checked before it runs.

    Raises:
        WeightsError: there are no such weights, or they are of another vocabulary or activation.
    """
    sizes = config.model.mbart
    checkpoint = Checkpoint(weights_folder(config))
    remedy = (
        f"trim {PRETRAINED} to this dataset with `{_trim_command(config.data, TRIMMED)}`, and set "
        f"model.mbart.weights and data.tokenizer to {TRIMMED}"
    )
    rows = checkpoint.shapes.get(SHARED, (tokenizer.vocab_size,))[0]
    if rows != tokenizer.vocab_size:
        raise WeightsError(
            f"{checkpoint.path} embeds {rows:,} tokens, and the tokenizer has {tokenizer.vocab_size:,}: "
            f"{remedy}"
        )
    if (checkpoint.path / MODEL_FILE).is_file():
        own = load_tokenizer(checkpoint.path, tokenizer.language)
        if own.fingerprint != tokenizer.fingerprint:
            raise WeightsError(
                f"{checkpoint.path} holds embeddings for its own tokenizer ({own.fingerprint}), and "
                f"data.tokenizer is another ({tokenizer.fingerprint}): set it to {checkpoint.path}, or "
                f"{remedy}"
            )
    theirs = checkpoint.config
    for key, wanted in (("activation_function", sizes.activation), ("scale_embedding", True)):
        if theirs.get(key, wanted) != wanted:
            raise WeightsError(f"{key} is {theirs[key]!r} in {checkpoint.path}, and {wanted!r} here")

    def start(state: TrainState) -> TrainState:
        params = load_mbart(state.params, checkpoint, layers=sizes.layers)
        return state.replace(params=params)  # type: ignore[attr-defined]

    return start


def weights_folder(config: Config) -> Path:
    """Where `model.mbart.weights` lies; WeightsError says how to get it, and how to do without."""
    weights = config.model.mbart.weights
    try:
        return resolve(weights)
    except WeightsError as error:
        raise WeightsError(
            f"{error}. The pretrained weights are {PRETRAINED}'s, and this command downloads them and keeps "
            f"what the dataset needs:\n  {_trim_command(config.data, weights)}\n"
            "To train from scratch: --config.model.mbart.weights= --config.data.tokenizer= "
            "(and --config.model.cnn.weights= for the CNN)"
        ) from error


def _trim_command(data: DataConfig, out: str) -> str:
    return (
        f"python -m sslssaw_jax.weights trim --model={PRETRAINED} --data_dir={data.data_dir} "
        f"--dataset={data.dataset} --out={out}"
    )


def load_mbart(params: nnx.State, checkpoint: Checkpoint, *, layers: str = "first") -> nnx.State:
    """`params` with the token embedding and all encoders and decoders taken from `checkpoint`.

    Heads play no part: they divide the same weights. Memory holds one tensor besides the result.

    Args:
        params: of a model of either stage, arrays or `jax.ShapeDtypeStruct`s with a sharding.
        checkpoint: mBART as Hugging Face names it, tied copies of the embedding present or not.
        layers: which of its layers a shallower encoder or decoder gets; see `chosen_layers`.

    Raises:
        WeightsError: a tensor is missing, without a place, or of another shape; or the embeddings are untied
            where the model's are one.
    """
    flat: dict[KeyPath, Any] = traverse_util.flatten_dict(nnx.to_pure_dict(params))
    own = {path: leaf for path, leaf in flat.items() if _is_mbart(path)}
    names = _names_in(checkpoint, own, layers)
    _require_one_fit(checkpoint, own, names)
    table = _input_table(checkpoint, tied_head=HEAD not in names.values())
    names = {path: table if name == SHARED else name for path, name in names.items()}
    if HEAD not in checkpoint.shapes:  # a head of its own starts as the table that it was tied to
        names = {path: table if name == HEAD else name for path, name in names.items()}
    for path in sorted(own, key=lambda path: -own[path].size):  # the largest while little is in memory
        value = _ours(path, checkpoint.read(names[path]))
        flat[path] = jax.device_put(value, own[path].sharding)
    loaded = jax.tree.map(lambda leaf: leaf, params)
    nnx.replace_by_pure_dict(loaded, traverse_util.unflatten_dict(flat))
    return loaded


def chosen_layers(layers: str, wanted: int, available: int) -> list[int]:
    """Which of the `available` layers become ours.

    `first` takes the lowest; `spread` takes evenly spaced ones, the first and the last among them.
    """
    if layers == "first":
        return list(range(wanted))
    return np.linspace(0, available - 1, wanted).round().astype(int).tolist()


def hugging_face_name(path: KeyPath) -> str:
    """The tensor that the parameter of an embedding, encoder or decoder is, of the same layer."""
    module, *rest = path
    if module == "embedding":
        return _EMBEDDING[tuple(rest)]
    *modules, leaf = (str(key) for key in rest if key not in _GROUPS)
    return ".".join(["model", HALVES[str(module)], *modules, _LEAVES[leaf]])


def to_hugging_face(params: Mapping[str, Any], encoder: str) -> dict[str, np.ndarray]:
    """Embedding, the named encoder and the decoder of `params` (nested dicts), named as Hugging Face does."""
    kept = {key: params[key] for key in ("embedding", encoder, "decoder")}
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(kept).items():
        value = np.asarray(leaf)
        value = value.T if path[-1] == "kernel" else value[None] if path[-1] == BIAS else value
        tensors[hugging_face_name(path)] = np.ascontiguousarray(value)
    if HEAD in tensors:  # untied: there each part has a table
        tensors |= dict.fromkeys(INPUT_TABLES, tensors[SHARED])
    return tensors


def _is_mbart(path: KeyPath) -> bool:
    return path[0] == "embedding" or (path[0] in HALVES and path[1] in _PARTS)  # a text encoder may be mBERT


def _ours(path: KeyPath, value: np.ndarray) -> np.ndarray:
    return value.T if path[-1] == "kernel" else value[0] if path[-1] == BIAS else value


def _shape_there(path: KeyPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if path[-1] == "kernel" else (1, *shape) if path[-1] == BIAS else shape


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Layers of each half."""
    depths = dict.fromkeys(HALVES.values(), 0)
    for name in names:
        half, found = name.removeprefix("model.").split(".")[0], _LAYER.search(name)
        if half in depths and found:
            depths[half] = max(depths[half], int(found[1]) + 1)
    return depths


def _names_in(checkpoint: Checkpoint, own: Mapping[KeyPath, Any], layers: str) -> dict[KeyPath, str]:
    """The tensor of the checkpoint that each parameter gets, whether it is there or not."""
    available = _depths(checkpoint.shapes)
    wanted = {path[0]: 0 for path in own}
    for path in own:
        if path[1] == "layers":
            wanted[path[0]] = max(wanted[path[0]], int(path[2]) + 1)
    names = {}
    for path in own:
        if path[1] == "layers":
            half = HALVES[str(path[0])]
            if wanted[path[0]] > available[half]:
                raise WeightsError(
                    f"the {path[0]} has {wanted[path[0]]} layers and the {half} in {checkpoint.path} "
                    f"{available[half]}: lower model.mbart.*_layers, or take a deeper model"
                )
            chosen = chosen_layers(layers, wanted[path[0]], available[half])
            names[path] = hugging_face_name((*path[:2], chosen[int(path[2])], *path[3:]))
        else:
            names[path] = hugging_face_name(path)
    return names


def _require_one_fit(
    checkpoint: Checkpoint, own: Mapping[KeyPath, Any], names: Mapping[KeyPath, str]
) -> None:
    optional = {HEAD, *INPUT_TABLES}
    known = {_LAYER.sub(".layers.*.", name) for name in names.values()} | optional
    problems = [
        f"{name}: no place in this model"
        for name in checkpoint.shapes
        if _LAYER.sub(".layers.*.", name) not in known
    ]
    for path, name in names.items():
        wanted, found = _shape_there(path, own[path].shape), checkpoint.shapes.get(name)
        if found is None and name not in optional:
            problems.append(f"{name}: missing, of shape {wanted} here")
        elif found not in (None, wanted):
            problems.append(f"{name}: of shape {found} there, {wanted} here")
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        shown = "\n  ".join([*problems[:_SHOWN_PROBLEMS], *more])
        raise WeightsError(f"the weights in {checkpoint.path} do not fit this model:\n  {shown}")


def _input_table(checkpoint: Checkpoint, *, tied_head: bool) -> str:
    """The tensor that embeds tokens; the copies that the model keeps as one must be equal.

    Encoder and decoder of mBART have always read one table. A head of its own is another matter: it needs
    `model.mbart.tied_head=False`.
    """
    encoder, decoder = (name if name in checkpoint.shapes else SHARED for name in INPUT_TABLES)
    head = HEAD if tied_head and HEAD in checkpoint.shapes else decoder
    if encoder == decoder == head:
        return decoder
    table = checkpoint.read(decoder)
    if encoder != decoder and not np.array_equal(checkpoint.read(encoder), table):
        raise WeightsError(
            f"untied: {encoder} and {decoder} of {checkpoint.path} differ, and encoder and decoder "
            "read one table here; nothing was trained so, take the model from before they parted"
        )
    if head != decoder and not np.array_equal(checkpoint.read(head), table):
        raise WeightsError(
            f"untied: {head} and {decoder} of {checkpoint.path} differ: "
            "set --config.model.mbart.tied_head=False to keep a head of its own"
        )
    return decoder
