"""Pretrained mBERT, or any BERT of Hugging Face, for text encoders.

Strict both ways, except for the pooler and the heads of BERT's own pretraining: the tower has none.
"""

import re
from pathlib import Path

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.mbart_tokenizer import TokenizerError
from sslssaw_jax.data.mbert_tokenizer import (
    BERT_TOKENIZER_FILE,
    BertTokenizer,
    load_bert_tokenizer,
    make_bert_tokenizer,
)
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.models.mbert import MBertConfig
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import InitialWeights, KeyPath, WeightsError, variables
from sslssaw_jax.weights.torch_files import Checkpoint, find_model
from sslssaw_jax.weights.torch_layout import choose_layers, load_tensors, torch_leaf

PRETRAINED_MBERT = "google-bert/bert-base-multilingual-cased"
_TABLE = "embeddings.word_embeddings.weight"
_MODULE = ("text_encoder", "bert")  # of a state
_LEFT_OUT = (
    "cls.",  # heads that predict masked words and the next sentence
    "pooler.",  # a layer on [CLS] for the latter
    "embeddings.position_ids",  # a buffer: 0, 1, 2, ...
)
_LAYERS = {  # within one of ours -> within BERT's
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.out_proj": "attention.output.dense",
    "attention_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


def bert_tokenizer(config: MBertConfig, clips: ClipSource) -> BertTokenizer:
    """Load the tokenizer of `config.weights`; None makes one from the clips' texts.

    Raises:
        WeightsError: The weights cannot be found, or the tokenizer belongs to another model.
        TokenizerError: The weights have no tokenizer.
    """
    if config.weights:
        folder = _folder(config)
        try:
            tokenizer = load_bert_tokenizer(folder)
        except TokenizerError as error:
            raise TokenizerError(
                f"{error}; or name another model with --config.model.mbert.weights=FOLDER"
            ) from error
        rows = {shape[0] for name, shape in Checkpoint(folder).shapes.items() if name.endswith(_TABLE)}
        if rows and rows != {tokenizer.vocab_size}:
            raise WeightsError(
                f"{folder} embeds {rows.pop():,} tokens, but its {BERT_TOKENIZER_FILE} has "
                f"{tokenizer.vocab_size:,}: download both files from the same model"
            )
        return tokenizer
    texts = ((clean_question(clip.question), clip.target) for clip in clips.clips)
    return make_bert_tokenizer(text for pair in texts for text in pair)


def pretrained_mbert(config: MBertConfig) -> InitialWeights:
    """Return the function that loads `config.weights` into an mBERT text encoder.

    Names in the file may begin with `bert.`, and LayerNorms have TensorFlow's `gamma` and `beta`, as in the
    published files. The function raises WeightsError if a tensor is missing, has no place, or has another
    shape, or if there are too few layers.

    Raises:
        WeightsError: There is no such file; it has another number of heads, or settings that are not BERT's.
    """
    checkpoint = Checkpoint(_folder(config))
    checkpoint.require_settings(
        {
            "num_attention_heads": config.heads,
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            "layer_norm_eps": 1e-12,
        },
        flags={"num_attention_heads": "config.model.mbert.heads"},
    )
    tensors = {_plain_name(name): name for name in checkpoint.shapes}
    layers = {name: int(match[1]) for name in tensors if (match := _LAYER.match(name))}
    available = len(set(layers.values()))
    chosen = choose_layers(config.pretrained_layers, "text_encoder", config.num_layers, available, checkpoint)
    tensors = {
        name: theirs
        for name, theirs in tensors.items()
        if not name.startswith(_LEFT_OUT) and layers.get(name) in (None, *chosen)
    }

    def load(state: TrainState) -> TrainState:
        own = (path for path in variables(state) if path[:2] == _MODULE)
        names = {path: _bert_name(path[2:], chosen) for path in own}
        return load_tensors(state, names, checkpoint, tensors, "model.mbert") if names else state

    return load


def _plain_name(name: str) -> str:
    name = name.removeprefix("bert.")
    return re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name))


def _bert_name(path: KeyPath, chosen: list[int]) -> str:
    if path[0] == "embeddings":
        return f"embeddings.{'LayerNorm' if path[1] == 'layer_norm' else path[1]}.{torch_leaf(path)}"
    inner = _LAYERS[".".join(map(str, path[2:-1]))]
    return f"encoder.layer.{chosen[path[1]]}.{inner}.{torch_leaf(path)}"


def _folder(config: MBertConfig) -> Path:
    try:
        return find_model(str(config.weights), BERT_TOKENIZER_FILE)
    except WeightsError as error:
        raise WeightsError(
            f"model.mbert.weights: {error}. `hf download {PRETRAINED_MBERT}` fetches the pretrained mBERT; "
            "--config.model.mbert.weights= trains from scratch"
        ) from error
