"""Pretrained mBART into our models, and its parts of ours out again, under Hugging Face's names.

Strict both ways: a tensor that is missing, has no place, or has another shape is an error that lists names.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util

from sslssaw_jax.config import TransformerConfig
from sslssaw_jax.data.tokenizer import MODEL_FILE, Tokenizer, load_tokenizer
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.files import Checkpoint, WeightsError, resolve

PRETRAINED = "facebook/mbart-large-cc25"
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
_GROUPS = {"input", "feed_forward"}  # our modules around what Hugging Face keeps side by side
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_SHOWN_PROBLEMS = 20


def pretrained_mbart(config: TransformerConfig, tokenizer: Tokenizer) -> Callable[[TrainState], TrainState]:
    """The function that puts the weights `config.weights` into a state; what can be is checked before.

    Raises:
        WeightsError: there are no such weights, or they are of another vocabulary or activation.
    """
    try:
        checkpoint = Checkpoint(resolve(config.weights))
    except WeightsError as error:
        raise WeightsError(f"{error}\n{missing_weights(config.weights)}") from error
    own_model = checkpoint.path / MODEL_FILE
    if own_model.is_file():
        own = load_tokenizer(checkpoint.path, tokenizer.language)
        if own.fingerprint != tokenizer.fingerprint:
            raise WeightsError(
                f"the embeddings in {checkpoint.path} are of its own tokenizer ({own.vocab_size:,} tokens), "
                f"and data.tokenizer is another ({tokenizer.vocab_size:,} tokens): set data.tokenizer to "
                f"{checkpoint.path}, or trim the model to this dataset with `{trim_command(config.weights)}`"
            )
    rows = checkpoint.shapes.get(SHARED, (tokenizer.vocab_size,))[0]
    if rows != tokenizer.vocab_size:
        raise WeightsError(
            f"{checkpoint.path} embeds {rows:,} tokens and the tokenizer has {tokenizer.vocab_size:,}: trim "
            f"the model to this dataset with `{trim_command(config.weights)}` and set data.tokenizer and "
            "model.mbart.weights to the folder that it writes"
        )
    theirs = checkpoint.config
    for key, own_value in (("activation_function", config.activation), ("scale_embedding", True)):
        if theirs.get(key, own_value) != own_value:
            raise WeightsError(f"{key} is {theirs[key]!r} in {checkpoint.path}, and {own_value!r} here")

    def start(state: TrainState) -> TrainState:
        return state.replace(  # type: ignore[attr-defined]
            params=load_mbart(state.params, checkpoint, layers=config.layers)
        )

    return start


def trim_command(weights: str) -> str:
    """What makes a folder that a configuration can name."""
    return (
        f"python -m sslssaw_jax.weights trim --model={PRETRAINED} --data_dir=DATA_DIR --dataset=DATASET "
        f"--out={weights}"
    )


def missing_weights(weights: str) -> str:
    """What to do where there are none."""
    return (
        f"The paper starts from {PRETRAINED}: `{trim_command(weights)}` downloads it and keeps what the "
        "dataset needs. To train from scratch: --config.model.mbart.weights= --config.data.tokenizer="
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
    own = {path: leaf for path, leaf in flat.items() if path[0] == "embedding" or path[0] in HALVES}
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
