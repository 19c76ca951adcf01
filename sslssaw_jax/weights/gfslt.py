"""Checkpoints of the parent project, GFSLT-VLP (github.com/zhoubenjia/GFSLT-VLP), for SSL-SSAW's stage 2.

Its stage 1 (`train_vlp.py`, `train_vlp_v2.py`) provides CNN, temporal convolutions and video encoder and, if
it restored words, also the decoder with embedding and head. Its own stage 2 takes the same (except for the
head, which it initializes again). Its stage 2 (`train_slt.py`) provides everything that it has. It has no
fusion: with `fusion.kind="concat"`, `ssl="off"`, `inputs="video"` the imported model computes the same.
"""

import fnmatch
from pathlib import Path

import numpy as np

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.systems.ssl_ssaw import SSLSSAWConfig
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.cnn import torchvision_name
from sslssaw_jax.weights.initial_state import InitialWeights, KeyPath, WeightsError, variables
from sslssaw_jax.weights.mbart import HEAD, SHARED, hugging_face_name
from sslssaw_jax.weights.torch_files import Checkpoint
from sslssaw_jax.weights.torch_layout import load_tensors, torch_leaf

# entry of a stage 1 file, and the prefix of names in it -> the prefix of these names in stage 2
_STAGE_1 = {
    "model.model_images.model.": "backbone.",
    "model.model_images.trans_encoder.": "mbart.model.encoder.",
    "text_decoder.text_decoder.": "mbart.model.decoder.",
    "text_decoder.": "mbart.",  # lm_head, final_logits_bias
}
_LEFT_OUT = {  # pattern -> reason
    "model_txt.*": "the text tower: stage 2 has none",
    "model_images.cls_token": "only for stage 1's contrastive loss",
    "model_images.lm_head.weight": "only for stage 1's contrastive loss",
    "logit_scale": "only for stage 1's contrastive loss",
    "mbart.model.shared.weight": "not read: the decoder has its own",
    "mbart.model.encoder.embed_tokens.weight": "not read: the encoder gets the video",
    "*.num_batches_tracked": "counters",
}
_TABLE = "mbart.model.decoder.embed_tokens.weight"
_VIDEO = {
    "conv1.conv": "backbone.conv_1d.temporal_conv.0",
    "conv1.norm": "backbone.conv_1d.temporal_conv.1",
    "conv2.conv": "backbone.conv_1d.temporal_conv.4",
    "conv2.norm": "backbone.conv_1d.temporal_conv.5",
    "project": "sign_emb.src_emb",
    "project_norm": "sign_emb.bn_ac.0",
}
# in its `mytran/config.json`; no tensor shows these settings
_PUBLISHED = {"activation": "relu", "video_heads": 8, "decoder_heads": 8}


def gfslt_checkpoint(config: Config, tokenizer: Tokenizer, *, whole: bool = False) -> InitialWeights:
    """Return the function that loads the checkpoint `init_from` and reports it.

    The function raises WeightsError if a tensor is missing, has no place, or has another shape.

    Args:
        config: Configuration of a model that reads the video.
        tokenizer: The tokenizer that the checkpoint was trained with.
        whole: Whether to refuse a checkpoint that leaves a part of the model as initialized, as
            evaluation must.

    Raises:
        WeightsError: There is no such file; it is not a checkpoint of GFSLT-VLP; it has another vocabulary;
            or its head is not its embedding but the model's is.
    """
    path = Path(str(config.init_from))
    if not path.is_file():
        raise WeightsError(f"init_from: there is no {path}")
    if config.model.inputs == "question":
        raise WeightsError(f"{path} translates videos: model.inputs is 'question'; make it 'video' or 'both'")
    checkpoint = Checkpoint(path, entries=("model", "text_decoder"))
    tensors, left_out = _tensors(checkpoint)
    if "backbone.conv_1d.temporal_conv.0.weight" not in tensors:
        raise WeightsError(f"{path} is not a checkpoint of GFSLT-VLP: it lacks the temporal convolutions")
    _require_same_vocabulary(checkpoint, tensors, config.model, tokenizer)
    parts = ["video", "encoder", "embedding", "decoder"]
    if "sign_emb.src_emb.weight" not in tensors:  # of stage 1
        parts[:1] = ["video.cnn", "video.conv1", "video.conv2"]
    if _TABLE not in tensors:  # from train_vlp.py, which restores no words
        parts = parts[:-2]

    def load(state: TrainState) -> TrainState:
        paths = variables(state)
        names = {path: _their_name(path, config.model) for path in paths if _is_within(path, parts)}
        rest = sorted({_part(path) for path in paths.keys() - names.keys()})
        if whole and rest:
            raise WeightsError(
                f"{path} holds no {', '.join(rest)}: only a checkpoint of train_slt.py can be evaluated "
                "untrained, with --config.model.fusion.kind=concat --config.model.ssl=off "
                "--config.model.inputs=video"
            )
        loaded = load_tensors(state, names, checkpoint, tensors)
        print(_report(config, parts, rest, left_out))
        return loaded

    return load


def _tensors(checkpoint: Checkpoint) -> tuple[dict[str, str], set[str]]:
    """Return file names by stage 2's names, and the patterns left out."""
    tensors, left_out = {}, set()
    for theirs in checkpoint.shapes:
        name = theirs.replace(".module.", ".", 1)  # of DistributedDataParallel
        prefix = next((prefix for prefix in _STAGE_1 if name.startswith(prefix)), "model.")
        name = _STAGE_1.get(prefix, "") + name.removeprefix(prefix)
        pattern = next((pattern for pattern in _LEFT_OUT if fnmatch.fnmatchcase(name, pattern)), None)
        if pattern:
            left_out.add(pattern)
        else:
            tensors[name] = theirs
    return tensors, left_out


def _require_same_vocabulary(
    checkpoint: Checkpoint, tensors: dict[str, str], config: SSLSSAWConfig, tokenizer: Tokenizer
) -> None:
    """Check the vocabulary, and remove a head that copies the tied embedding."""
    if _TABLE not in tensors:
        return
    rows = checkpoint.shapes[tensors[_TABLE]][0]
    if rows != tokenizer.vocab_size:
        raise WeightsError(
            f"{checkpoint.path} embeds {rows:,} tokens, but the tokenizer has {tokenizer.vocab_size:,}: set "
            "--config.data.tokenizer=FOLDER, the one that it was trained with (pretrain_models/MBart_trimmed)"
        )
    head = tensors.pop(f"mbart.{HEAD}", None) if config.mbart.tied_head else None
    if head and not np.array_equal(checkpoint.read(head), checkpoint.read(tensors[_TABLE])):
        raise WeightsError(
            f"the head of {checkpoint.path} is not its embedding: set "
            "--config.model.mbart.tied_head=False to keep a head of its own"
        )


def _part(path: KeyPath) -> str:
    return ".".join(map(str, path[: 2 if path[0] == "video" else 1]))


def _is_within(path: KeyPath, parts: list[str]) -> bool:
    return _part(path) in parts or path[0] in parts


def _their_name(path: KeyPath, config: SSLSSAWConfig) -> str:
    if path[:2] == ("video", "cnn"):
        return f"backbone.conv_2d.resnet.{torchvision_name(path[2:], config.cnn)}"
    if path[0] == "video":
        return f"{_VIDEO['.'.join(map(str, path[1:-1]))]}.{torch_leaf(path)}"
    name = f"mbart.{hugging_face_name(path)}"
    return _TABLE if name == f"mbart.{SHARED}" else name


def _report(config: Config, parts: list[str], rest: list[str], left_out: set[str]) -> str:
    lines = [f"{config.init_from}: {', '.join(parts)} loaded"]
    if rest:
        lines.append(f"  not in it, so as initialized: {', '.join(rest)}")
    lines += [f"  left out: {pattern} ({_LEFT_OUT[pattern]})" for pattern in sorted(left_out)]
    for setting, published in _PUBLISHED.items():
        value = getattr(config.model.mbart, setting)
        if value != published:
            lines.append(
                f"  model.mbart.{setting} is {value!r}; the published configuration has {published!r}"
            )
    return "\n".join(lines)
