"""Checkpoints of the parent project, GFSLT-VLP (github.com/zhoubenjia/GFSLT-VLP), into the model of stage 2.

Its stage 1 (`train_vlp.py`, `train_vlp_v2.py`) gives CNN, temporal convolutions and video encoder, and where
words were restored the decoder with its embedding and head, as its own stage 2 takes them (all but the head,
which it draws anew). Its stage 2 (`train_slt.py`) gives everything that it has. It has no fusion: with
`fusion.kind="concat"`, `ssl="off"`, `inputs="sign"` the imported model computes the same.
"""

import fnmatch
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax import nnx, traverse_util

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.cnn import LEAVES, torchvision_name
from sslssaw_jax.weights.mbart import BIAS, HEAD, SHARED, KeyPath, hugging_face_name
from sslssaw_jax.weights.torch_files import Checkpoint, WeightsError, require_same_tensors
from sslssaw_jax.weights.transfer import fill

# entry of a file of stage 1 and its names -> what stage 2 calls the same
_STAGE_1 = {
    "model.model_images.model.": "backbone.",
    "model.model_images.trans_encoder.": "mbart.model.encoder.",
    "text_decoder.text_decoder.": "mbart.model.decoder.",
    "text_decoder.": "mbart.",  # lm_head, final_logits_bias
}
_LEFT_OUT = {  # pattern -> reason
    "model_txt.*": "the text tower: stage 2 has none",
    "model_images.cls_token": "of stage 1's contrast alone",
    "model_images.lm_head.weight": "of stage 1's contrast alone",
    "logit_scale": "of stage 1's contrast alone",
    "mbart.model.shared.weight": "read by nothing: the decoder has its own",
    "mbart.model.encoder.embed_tokens.weight": "read by nothing: the encoder gets the video",
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
_TORCH_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}  # of a kernel of ours
_PUBLISHED = {"activation": "relu", "heads": 8}  # `mytran/config.json`; no tensor tells


def is_gfslt(init_from: str) -> bool:
    """Whether `init_from` names a checkpoint of the parent project and no workdir."""
    return init_from.endswith(".pth")


def gfslt_checkpoint(
    config: Config, tokenizer: Tokenizer, *, whole: bool = False
) -> Callable[[TrainState], TrainState]:
    """The function that puts the checkpoint `init_from` into a state of stage 2 and tells what it did.

    Args:
        config: of a model that reads the video.
        tokenizer: the one that the checkpoint was trained with.
        whole: refuse to leave a part of the model as it was initialised, as evaluation has to.

    Raises:
        WeightsError: there is no such file, it is none of GFSLT-VLP, it is of another vocabulary, or its head
            is not its embedding and here they are one. The function raises it where a tensor is missing, has
            no place or is of another shape.
    """
    path = Path(config.init_from).expanduser()
    if not path.is_file():
        raise WeightsError(f"init_from: there is no {path}")
    if config.model.inputs == "question":
        raise WeightsError(f"{path} translates videos: model.inputs is 'question', make it 'sign' or 'both'")
    checkpoint = Checkpoint(path, entries=("model", "text_decoder"))
    tensors, left_out = _tensors(checkpoint)
    if "backbone.conv_1d.temporal_conv.0.weight" not in tensors:
        raise WeightsError(f"{path} is no checkpoint of GFSLT-VLP: it lacks the temporal convolutions")
    _require_one_vocabulary(checkpoint, tensors, config, tokenizer)
    parts = ["video", "encoder", "embedding", "decoder"]
    if "sign_emb.src_emb.weight" not in tensors:  # of stage 1
        parts[:1] = ["video.cnn", "video.conv1", "video.conv2"]
    if _TABLE not in tensors:  # of train_vlp.py, which restores no words
        parts = parts[:-2]

    def start(state: TrainState) -> TrainState:
        params, batch_stats = (
            traverse_util.flatten_dict(nnx.to_pure_dict(variables))
            for variables in (state.params, state.batch_stats)
        )
        own = {key: leaf for key, leaf in (params | batch_stats).items() if _is_within(key, parts)}
        names = {key: _their_name(key, config) for key in own}
        require_same_tensors(
            {name: checkpoint.shapes[theirs] for name, theirs in tensors.items()},
            {names[key]: _shape_there(key, leaf.shape) for key, leaf in own.items()},
            f"{path} does not fit this model",
        )
        rest = sorted({_part(key) for key in params.keys() - own.keys()})
        if whole and rest:
            raise WeightsError(
                f"{path} holds no {', '.join(rest)}: only a checkpoint of train_slt.py can be evaluated "
                "untrained, with model.fusion.kind 'concat', model.ssl 'off' and model.inputs 'sign'"
            )
        donors = [
            traverse_util.unflatten_dict(
                {key: _ours(key, checkpoint.read(tensors[names[key]])) for key in own.keys() & group.keys()}
            )
            for group in (params, batch_stats)
        ]
        state = fill(state, donors[0], donors[1], {part: part for part in parts}, str(path))
        print(_report(config, parts, rest, left_out))
        return state

    return start


def _tensors(checkpoint: Checkpoint) -> tuple[dict[str, str], set[str]]:
    """Stage 2's name of each tensor -> its name in the file; and the patterns of those left out."""
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


def _require_one_vocabulary(
    checkpoint: Checkpoint, tensors: dict[str, str], config: Config, tokenizer: Tokenizer
) -> None:
    """Takes a head that is a copy of the embedding out of `tensors` where both are one here."""
    if _TABLE not in tensors:
        return
    rows = checkpoint.shapes[tensors[_TABLE]][0]
    if rows != tokenizer.vocab_size:
        raise WeightsError(
            f"{checkpoint.path} embeds {rows:,} tokens, and the tokenizer has {tokenizer.vocab_size:,}: set "
            "data.tokenizer to the folder that it was trained with (pretrain_models/MBart_trimmed)"
        )
    head = tensors.pop(f"mbart.{HEAD}", None) if config.model.mbart.tied_head else None
    if head and not np.array_equal(checkpoint.read(head), checkpoint.read(tensors[_TABLE])):
        raise WeightsError(
            f"the head of {checkpoint.path} is not its embedding: set "
            "--config.model.mbart.tied_head=False to keep a head of its own"
        )


def _part(key: KeyPath) -> str:
    return ".".join(map(str, key[: 2 if key[0] == "video" else 1]))


def _is_within(key: KeyPath, parts: list[str]) -> bool:
    return _part(key) in parts or key[0] in parts


def _their_name(key: KeyPath, config: Config) -> str:
    if key[:2] == ("video", "cnn"):
        return f"backbone.conv_2d.resnet.{torchvision_name(key[2:], config.model)}"
    if key[0] == "video":
        return f"{_VIDEO['.'.join(map(str, key[1:-1]))]}.{LEAVES[str(key[-1])]}"
    name = f"mbart.{hugging_face_name(key)}"
    return _TABLE if name == f"mbart.{SHARED}" else name


def _shape_there(key: KeyPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    if key[-1] == BIAS:
        return (1, *shape)
    return tuple(shape[axis] for axis in _TORCH_AXES[len(shape)]) if key[-1] == "kernel" else shape


def _ours(key: KeyPath, value: np.ndarray) -> np.ndarray:
    if key[-1] == BIAS:
        return value[0]
    return value.transpose(np.argsort(_TORCH_AXES[value.ndim])) if key[-1] == "kernel" else value


def _report(config: Config, parts: list[str], rest: list[str], left_out: set[str]) -> str:
    lines = [f"{config.init_from}: {', '.join(parts)} taken over"]
    if rest:
        lines.append(f"  not in it, and as initialised: {', '.join(rest)}")
    lines += [f"  left out: {pattern} ({_LEFT_OUT[pattern]})" for pattern in sorted(left_out)]
    for setting, published in _PUBLISHED.items():
        value = getattr(config.model.mbart, setting)
        if value != published:
            lines.append(
                f"  model.mbart.{setting} is {value!r}; the published configuration has {published!r}"
            )
    return "\n".join(lines)
