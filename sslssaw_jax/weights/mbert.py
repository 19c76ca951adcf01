"""Pretrained mBERT (`bert-base-multilingual-cased`, or any BERT of Hugging Face) into the text tower.

Strict both ways, but for what the tower has no use for: the pooler and the heads of BERT's own pretraining.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx, traverse_util

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.config.model import BertConfig
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.mbert_tokenizer import (
    BERT_TOKENIZER_FILE,
    BertTokenizer,
    load_bert_tokenizer,
    make_bert_tokenizer,
)
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.models.mbert import Bert
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.mbart import KeyPath, chosen_layers
from sslssaw_jax.weights.torch_files import Checkpoint, WeightsError, require_same_tensors, resolve
from sslssaw_jax.weights.transfer import fill

PRETRAINED_MBERT = "google-bert/bert-base-multilingual-cased"
_LEFT_OUT = (
    "cls.",  # heads that predict masked words and the next sentence
    "pooler.",  # a layer on [CLS] for the latter
    "embeddings.position_ids",  # a buffer: 0, 1, 2, ...
)
_MODULES = {
    "layer_norm": "LayerNorm",  # of the embeddings
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.out_proj": "attention.output.dense",
    "attention_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
# what decides the function and no shape
_ONLY_SETTINGS = {"hidden_act": "gelu", "position_embedding_type": "absolute", "layer_norm_eps": 1e-12}


def bert_tokenizer(config: Config, clips: ClipSource) -> BertTokenizer:
    """The tokenizer beside `model.mbert.weights`; from scratch, one of the texts of `clips`.

    Raises:
        WeightsError: there are no such weights.
        TokenizerError: they have no tokenizer.
    """
    if config.model.mbert.weights:
        return load_bert_tokenizer(_folder(config))
    texts = ((clean_question(clip.question), clip.target) for clip in clips.clips)
    return make_bert_tokenizer(text for pair in texts for text in pair)


def pretrained_mbert(config: Config, vocab_size: int) -> Callable[[TrainState], TrainState]:
    """The function that puts `model.mbert.weights` into a state; all is read and checked before it runs.

    Raises:
        WeightsError: as `load_bert`.
    """
    folder = _folder(config)
    params = load_bert(config.model.mbert, vocab_size, folder)

    def start(state: TrainState) -> TrainState:
        return fill(state, {"bert": params}, {}, {"text_encoder.bert": "bert"}, str(folder))

    return start


def is_mbert(module: Mapping[str, Any]) -> bool:
    """Whether the parameters of a text encoder are mBERT's."""
    return "bert" in module


def load_bert(config: BertConfig, vocab_size: int, path: Path) -> dict[str, Any]:
    """Parameters of `models.mbert.Bert` (nested dicts of float32 NumPy arrays) from a folder or file.

    Names may begin with `bert.`, and LayerNorms have TensorFlow's `gamma` and `beta`, as in the published
    files. The pooler and the heads of masked words and next sentence are left out.

    Raises:
        WeightsError: there is no such file; a tensor has no place, is missing or is of another shape; it has
            fewer layers than `config`, another number of heads, or settings that are not BERT's.
    """
    checkpoint = Checkpoint(path)
    settings = {**_ONLY_SETTINGS, "num_attention_heads": config.heads}
    for key, value in settings.items():
        if checkpoint.config.get(key, value) != value:
            raise WeightsError(f"{path} has {key}={checkpoint.config[key]!r}; here it is {value!r}")
    tensors = {_plain_name(name): name for name in checkpoint.shapes}
    layers = {name: int(match[1]) for name in tensors if (match := _LAYER.match(name))}
    available = max(layers.values(), default=-1) + 1
    if config.num_layers > available:
        raise WeightsError(
            f"{path} has {available} layers, and model.mbert.num_layers is {config.num_layers}: lower it"
        )
    chosen = chosen_layers(config.layers, config.num_layers, available)
    found = {
        name: checkpoint.shapes[theirs]
        for name, theirs in tensors.items()
        if not name.startswith(_LEFT_OUT) and layers.get(name) in (None, *chosen)
    }
    bert = nnx.eval_shape(lambda: Bert(config, vocab_size, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    own = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(bert, nnx.Param)))
    names = {key_path: _their_name(key_path, chosen) for key_path in own}
    wanted = {
        names[key_path]: leaf.shape[::-1] if key_path[-1] == "kernel" else leaf.shape
        for key_path, leaf in own.items()
    }
    require_same_tensors(found, wanted, f"{path} does not fit model.mbert")
    params = {}
    for key_path, name in names.items():
        value = checkpoint.read(tensors[name])
        params[key_path] = value.T if key_path[-1] == "kernel" else value
    return traverse_util.unflatten_dict(params)


def _plain_name(name: str) -> str:
    name = name.removeprefix("bert.")
    return re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name))


def _their_name(path: KeyPath, chosen: list[int]) -> str:
    leaf = _LEAVES[str(path[-1])]
    if path[0] == "embeddings":
        return f"embeddings.{_MODULES.get(str(path[1]), path[1])}.{leaf}"
    return f"encoder.layer.{chosen[int(path[1])]}.{_MODULES['.'.join(map(str, path[2:-1]))]}.{leaf}"


def _folder(config: Config) -> Path:
    try:
        return resolve(config.model.mbert.weights, BERT_TOKENIZER_FILE)
    except WeightsError as error:
        raise WeightsError(
            f"model.mbert.weights: {error}. `hf download {PRETRAINED_MBERT}` fetches the pretrained mBERT; "
            "--config.model.mbert.weights= trains from scratch"
        ) from error
