"""Import and export of mBART under Hugging Face's names.

Strict both ways: a tensor that is missing, has no place, or has another shape is an error that lists names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.data.mbart_tokenizer import MODEL_FILE, Tokenizer, load_tokenizer
from sslssaw_jax.models.mbart import PretrainedMBartConfig
from sslssaw_jax.models.transformer import ACTIVATIONS
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import InitialWeights, KeyPath, WeightsError, variables
from sslssaw_jax.weights.torch_files import Checkpoint, find_model
from sslssaw_jax.weights.torch_layout import (
    BIAS_OF_LOGITS,
    choose_layers,
    load_tensors,
    to_torch,
    torch_leaf,
)

PRETRAINED = "facebook/mbart-large-cc25"
TRIMMED = "./pretrained/mbart_trimmed"  # followed by _DATASET in a remedy
SHARED, HEAD, BIAS = "model.shared.weight", "lm_head.weight", BIAS_OF_LOGITS
INPUT_TABLES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
_TABLES = {SHARED, HEAD, *INPUT_TABLES}
_EMBEDDING = {"embed": SHARED, "lm_head": HEAD, BIAS_OF_LOGITS: BIAS}
_HALVES = {  # our modules -> the half of mBART whose architecture they have
    "encoder": "encoder",
    "text_encoder": "encoder",
    "video_encoder": "encoder",
    "decoder": "decoder",
}
_PARTS = {"input", "layers", "layer_norm"}  # of an encoder or decoder; a text encoder may be mBERT
_GROUPED = {"input", "feed_forward"}  # our modules whose parts Hugging Face keeps one level up
_GROUP = re.compile(r"model\.(encoder|decoder)\.(layers\.\d+\.)?")


def pretrained_mbart(config: PretrainedMBartConfig, data: DataConfig, tokenizer: Tokenizer) -> InitialWeights:
    """Return the function that loads `config.weights`; all but shapes is checked beforehand.

    Raises:
        WeightsError: There are no such weights, or they have another vocabulary or activation.
    """
    checkpoint = Checkpoint(mbart_folder(config, data))
    trimmed = f"{TRIMMED}_{data.dataset}"
    remedy = (
        f"trim {PRETRAINED} to this dataset with `{_trim_command(data, trimmed)}`, and set "
        f"--config.model.mbart.weights={trimmed}"
    )
    rows = checkpoint.shapes.get(SHARED, (tokenizer.vocab_size,))[0]
    if rows != tokenizer.vocab_size:
        raise WeightsError(
            f"{checkpoint.path} embeds {rows:,} tokens, but the tokenizer has {tokenizer.vocab_size:,}: "
            f"{remedy}"
        )
    if (checkpoint.path / MODEL_FILE).is_file():
        own = load_tokenizer(checkpoint.path, tokenizer.language)
        if own.fingerprint != tokenizer.fingerprint:
            raise WeightsError(
                f"{checkpoint.path} holds embeddings for its own tokenizer ({own.fingerprint}), but "
                f"the run's is another ({tokenizer.fingerprint}): set "
                f"--config.data.tokenizer={checkpoint.path}, or {remedy}"
            )
    known = checkpoint.config.get("activation_function") in ACTIVATIONS
    checkpoint.require_settings(
        {"activation_function": config.activation, "scale_embedding": True},
        flags={"activation_function": "config.model.mbart.activation"} if known else {},
    )
    return lambda state: load_mbart(state, checkpoint, config.pretrained_layers)


def mbart_folder(config: PretrainedMBartConfig, data: DataConfig) -> Path:
    """Return the folder of `config.weights`.

    Raises:
        WeightsError: There is none; the message says how to get the weights, and how to do without them.
    """
    try:
        return find_model(str(config.weights))
    except WeightsError as error:
        raise WeightsError(
            f"{error}. The pretrained weights are {PRETRAINED}'s, and this command downloads them and keeps "
            "what the dataset needs (add --glosses for MMTLB and TS-SLT, which read glosses as text):\n"
            f"  {_trim_command(data, str(config.weights))}\n"
            "To train from scratch: --config.model.mbart.weights= "
            "(and --config.model.cnn.weights= for the CNN)"
        ) from error


def _trim_command(data: DataConfig, out: str) -> str:
    return (
        f"python -m sslssaw_jax.weights trim --model={PRETRAINED} --data_dir={data.data_dir} "
        f"--dataset={data.dataset} --out={out}"
    )


def load_mbart(state: TrainState, checkpoint: Checkpoint, pretrained_layers: str = "first") -> TrainState:
    """Return the state with mBART's weights in each of mBART's parts.

    The parts are embedding, encoders and decoder, as far as the state has them. The number of heads does not
    matter: it divides the same weights.

    Args:
        state: A state of any stage; see `load_tensors`.
        checkpoint: mBART under Hugging Face's names, with or without tied copies of the embedding.
        pretrained_layers: Which layers a shallower encoder or decoder gets; see `choose_layers`.

    Raises:
        WeightsError: A tensor is missing, has no place, or has another shape; or the embeddings differ where
            the model has one.
    """
    own = [path for path in variables(state) if _is_mbart(path)]
    groups = {_group(name) for name in checkpoint.shapes}
    chosen = {}
    for module in _HALVES.keys() & {path[0] for path in own}:
        wanted = {path[2] for path in own if path[:2] == (module, "layers")}
        available = sum(group.startswith(f"model.{_HALVES[module]}.layers.") for group in groups)
        chosen[module] = choose_layers(pretrained_layers, module, len(wanted), available, checkpoint)

    def name_of(path: KeyPath) -> str:
        if path[1] == "layers":
            path = (*path[:2], chosen[path[0]][path[2]], *path[3:])
        return hugging_face_name(path)

    names = {path: name_of(path) for path in own}
    used = {_group(name) for name in names.values()}  # all other layers, or a whole half, may remain unread
    tensors = {name: name for name in checkpoint.shapes if _group(name) in used and name not in _TABLES}
    if SHARED in names.values():
        tensors |= _tables(checkpoint, tied_head=HEAD not in names.values())
    return load_tensors(state, names, checkpoint, tensors)


def hugging_face_name(path: KeyPath) -> str:
    """Return Hugging Face's name for an embedding, encoder or decoder variable."""
    module, *rest = path
    if module == "embedding":
        return _EMBEDDING[rest[0]]
    inner = [str(key) for key in rest[:-1] if key not in _GROUPED]
    return ".".join(["model", _HALVES[module], *inner, torch_leaf(path)])


def to_hugging_face(params: Mapping[str, Any], encoder: str) -> dict[str, np.ndarray]:
    """Return embedding, an encoder and the decoder under Hugging Face's names."""
    kept = {key: params[key] for key in ("embedding", encoder, "decoder")}
    tensors = {
        hugging_face_name(path): np.ascontiguousarray(to_torch(path, np.asarray(leaf)))
        for path, leaf in traverse_util.flatten_dict(kept).items()
    }
    if HEAD in tensors:  # untied, each part has a table in Hugging Face's model
        tensors |= dict.fromkeys(INPUT_TABLES, tensors[SHARED])
    return tensors


def _is_mbart(path: KeyPath) -> bool:
    return path[0] == "embedding" or (path[0] in _HALVES and path[1] in _PARTS)


def _group(name: str) -> str:
    """Return the layer of a tensor; otherwise its half, if any."""
    match = _GROUP.match(name)
    return match[0] if match else ""


def _tables(checkpoint: Checkpoint, *, tied_head: bool) -> dict[str, str]:
    """Return the file's names for the tables of token embeddings.

    mBART's encoder and decoder always share one table. A separate head needs
    `model.mbart.tied_head=False`, and starts as that table if the file has none.

    Raises:
        WeightsError: Tables that are one table in the model differ in the file.
    """
    encoder, table = (name if name in checkpoint.shapes else SHARED for name in INPUT_TABLES)
    head = HEAD if HEAD in checkpoint.shapes else table
    if encoder != table and not _equal(checkpoint, encoder, table):
        raise WeightsError(
            f"untied: {encoder} and {table} of {checkpoint.path} differ, but encoder and decoder share one "
            "table here; take the model from before the two tables diverged"
        )
    if not tied_head:
        return {SHARED: table, HEAD: head}
    if head != table and not _equal(checkpoint, head, table):
        raise WeightsError(
            f"untied: {head} and {table} of {checkpoint.path} differ: "
            "set --config.model.mbart.tied_head=False to keep a separate head"
        )
    return {SHARED: table}


def _equal(checkpoint: Checkpoint, name: str, other: str) -> bool:
    return np.array_equal(checkpoint.read(name), checkpoint.read(other))
