"""Export of a trained model for PyTorch and as a single safetensors file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from sslssaw_jax.data.mbart_tokenizer import MODEL_FILE, Tokenizer, load_tokenizer, write_tokenizer
from sslssaw_jax.models.mbart import MBartConfig
from sslssaw_jax.systems import read_config
from sslssaw_jax.training.checkpoints import restore_params
from sslssaw_jax.types import BLEU_4
from sslssaw_jax.weights.initial_state import WeightsError, dotted
from sslssaw_jax.weights.mbart import to_hugging_face
from sslssaw_jax.weights.torch_files import CONFIG_FILE, WEIGHTS_FILE, atomic_folder
from sslssaw_jax.workdir import CHECKPOINTS, TOKENIZER, write_json

MBART_FOLDER = "mbart"
RUN_CONFIG_FILE = "run_config.json"
_README = """# {name}

The best checkpoint of a run of sslssaw_jax (stage `{stage}`).

- `{mbart}/`: the {encoder} and the decoder as a Hugging Face model. In PyTorch:
  `MBartForConditionalGeneration.from_pretrained("{mbart}")`. {reads}
- `{weights}`: every parameter and running statistic, float32, in the layout of Flax: the kernel of a linear
  layer is [in, out], of a convolution [*window, in, out]. `mean` and `var` are of BatchNorm.
- `{config}`: the configuration of the run.

| key | shape |
| --- | --- |
{keys}
"""
_READS = {  # the exported encoder, in order of preference
    "encoder": "Its encoder reads the fusion of question and video: give it as `inputs_embeds`.",
    "text_encoder": "Its encoder reads text.",
    "video_encoder": "Its encoder reads [CLS] and the video: give them as `inputs_embeds`.",
}
_MBERT = " mBERT, the text tower, is not in it; its keys below begin with `text_encoder.`"


def export(workdir: Path, out: Path) -> None:
    """Write `OUT/mbart/`, `OUT/model.safetensors`, `OUT/run_config.json` and `OUT/README.md`.

    Args:
        workdir: The folder of a run of stage 1 or 2; its best checkpoint is exported.
        out: The folder to write; nothing of it remains after an error.

    Raises:
        CheckpointError: The workdir holds no checkpoint.
        WeightsError: The model has no mBART part, or `out` exists.
        TokenizerError: There is no tokenizer.
    """
    params, batch_stats, meta = restore_params(workdir / CHECKPOINTS, best_by=BLEU_4)
    # a text encoder is mBERT in place of mBART where it has "bert"
    encoder = next((name for name in _READS if name in params and "bert" not in params[name]), None)
    config = read_config(ml_collections.ConfigDict(meta["config"]))
    if encoder is None or config.system != "ssl_ssaw":
        raise WeightsError(
            f"the model in {workdir} has no mBART part: name the workdir of a stage 1 or 2 with mBART"
        )
    loaded = _tokenizer(workdir, meta)
    tensors = {
        dotted(path): np.ascontiguousarray(leaf)
        for tree in (params, batch_stats)
        for path, leaf in traverse_util.flatten_dict(tree).items()
    }
    with atomic_folder(out) as folder:
        _write_mbart(folder / MBART_FOLDER, params, encoder, config.model.mbart, loaded)
        save_file(tensors, folder / WEIGHTS_FILE)
        write_json(folder / RUN_CONFIG_FILE, meta["config"])
        readme = _README.format(
            name=config.name,
            stage="translate" if encoder == "encoder" else "pretrain",
            mbart=MBART_FOLDER,
            encoder=encoder,
            reads=_READS[encoder] + _MBERT * ("text_encoder" in params and encoder != "text_encoder"),
            weights=WEIGHTS_FILE,
            config=RUN_CONFIG_FILE,
            keys="\n".join(f"| `{key}` | {list(value.shape)} |" for key, value in sorted(tensors.items())),
        )
        (folder / "README.md").write_text(readme, encoding="utf-8")


def _tokenizer(workdir: Path, meta: Mapping[str, Any]) -> Tokenizer:
    """Load the tokenizer that is kept with the run, without mBERT's."""
    folder, fingerprint = workdir / TOKENIZER, meta["tokenizer"]
    tokenizer = load_tokenizer(folder, meta["dataset"]["language"])
    if tokenizer.fingerprint != fingerprint.split("+")[0]:  # the second part is mBERT's
        raise WeightsError(
            f"the model was trained with another tokenizer ({fingerprint}) than the one in {folder} "
            f"({tokenizer.fingerprint}): restore the run's own"
        )
    return tokenizer


def _write_mbart(
    folder: Path, params: Mapping[str, Any], encoder: str, sizes: MBartConfig, tokenizer: Tokenizer
) -> None:
    reads_text = encoder == "text_encoder"
    config = {
        "architectures": ["MBartForConditionalGeneration"],
        "model_type": "mbart",
        "vocab_size": tokenizer.vocab_size,
        "d_model": sizes.d_model,
        "encoder_layers": sizes.text_layers if reads_text else sizes.video_layers,
        "encoder_attention_heads": sizes.text_heads if reads_text else sizes.video_heads,
        "encoder_ffn_dim": sizes.ffn_dim,
        "decoder_layers": sizes.decoder_layers,
        "decoder_attention_heads": sizes.decoder_heads,
        "decoder_ffn_dim": sizes.ffn_dim,
        "max_position_embeddings": sizes.max_positions,
        "activation_function": sizes.activation,
        "dropout": sizes.dropout,
        "attention_dropout": sizes.attention_dropout,
        "activation_dropout": sizes.activation_dropout,
        "scale_embedding": True,
        "tie_word_embeddings": sizes.tied_head,
        "bos_token_id": tokenizer.bos_id,
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.eos_id,
        "forced_eos_token_id": tokenizer.eos_id,
        "decoder_start_token_id": tokenizer.language_id,
    }
    folder.mkdir()
    write_json(folder / CONFIG_FILE, config)
    save_file(to_hugging_face(params, encoder), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_tokenizer(folder, (tokenizer.folder / MODEL_FILE).read_bytes(), tokenizer.languages)
