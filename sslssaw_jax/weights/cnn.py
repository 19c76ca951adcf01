"""Pretrained CNNs: the weights of torchvision and Hugging Face for our modules, strict both ways.

Torch's running variances are unbiased, those of our own training biased; they are taken as they are.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sslssaw_jax.config import Config, ModelConfig
from sslssaw_jax.models.temporal import make_cnn
from sslssaw_jax.transfer import CNN_ALONE, fill
from sslssaw_jax.types import TrainState

_SHOWN_PROBLEMS = 12
_FILES = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder
_CLASSIFIERS = ("fc.weight", "fc.bias", "classifier.1.weight", "classifier.1.bias")
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# what decides the function and no shape; a published ResNet has these values
_ONLY_SETTINGS = {
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}


class WeightsError(ValueError):
    """A weight file is missing or does not fit the model; the message names it and the remedy."""


class _Layout(NamedTuple):
    """Their names of our modules."""

    outside: dict[str, str]
    block: str  # with the number of the level, and of the block in it
    first_level: int
    inside: dict[str, str]  # of a block


_TORCHVISION_RESNET = _Layout(
    {"stem": "conv1", "stem_norm": "bn1"},
    "layer{level}.{number}",
    1,
    {
        "conv1": "conv1",
        "norm1": "bn1",
        "conv2": "conv2",
        "norm2": "bn2",
        "conv3": "conv3",
        "norm3": "bn3",
        "shortcut.conv": "downsample.0",
        "shortcut.norm": "downsample.1",
    },
)
_HUGGING_FACE_RESNET = _Layout(
    {"stem": "embedder.embedder.convolution", "stem_norm": "embedder.embedder.normalization"},
    "encoder.stages.{level}.layers.{number}",
    0,
    {
        "conv1": "layer.0.convolution",
        "norm1": "layer.0.normalization",
        "conv2": "layer.1.convolution",
        "norm2": "layer.1.normalization",
        "conv3": "layer.2.convolution",
        "norm3": "layer.2.normalization",
        "shortcut.conv": "shortcut.convolution",
        "shortcut.norm": "shortcut.normalization",
    },
)
_TORCHVISION_SHUFFLENET = _Layout(
    {"stem": "conv1.0", "stem_norm": "conv1.1", "head": "conv5.0", "head_norm": "conv5.1"},
    "stage{level}.{number}",
    2,
    {
        "shortcut.depthwise": "branch1.0",
        "shortcut.depthwise_norm": "branch1.1",
        "shortcut.pointwise": "branch1.2",
        "shortcut.pointwise_norm": "branch1.3",
        "reduce": "branch2.0",
        "reduce_norm": "branch2.1",
        "branch.depthwise": "branch2.3",
        "branch.depthwise_norm": "branch2.4",
        "branch.pointwise": "branch2.5",
        "branch.pointwise_norm": "branch2.6",
    },
)


def pretrained_cnn(config: Config) -> Callable[[TrainState], TrainState]:
    """The function that puts `model.cnn_weights` into a state; all is read and checked before it runs.

    Raises:
        WeightsError: as `load_cnn`.
    """
    params, batch_stats = load_cnn(config.model, config.data.image_size)

    def start(state: TrainState) -> TrainState:
        return fill(state, {"cnn": params}, {"cnn": batch_stats}, CNN_ALONE, config.model.cnn_weights)

    return start


def load_cnn(config: ModelConfig, image_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and batch statistics (nested dicts of float32 NumPy arrays) of the CNN of `config`.

    Reads `config.cnn_weights`: a file (torchvision's `.pth`, `.safetensors`), a Hugging Face folder, or a
    name in the Hugging Face cache. Classifiers and counters of batches are the only tensors left out.

    Raises:
        WeightsError: there is no such file, or a tensor has no place, is missing or is of another shape.
    """
    path = _find(config.cnn_weights)
    tensors = {
        name.removeprefix("resnet."): tensor  # of a classifier at Hugging Face
        for name, tensor in _read(path).items()
        if name not in _CLASSIFIERS and not name.endswith("num_batches_tracked")
    }
    layout = _TORCHVISION_SHUFFLENET if config.cnn == "shufflenet" else _TORCHVISION_RESNET
    if config.cnn == "resnet" and any(name.startswith("embedder.") for name in tensors):
        layout = _HUGGING_FACE_RESNET
        _check_settings(path.with_name("config.json"))
    depths = config.shufflenet.depths if config.cnn == "shufflenet" else config.resnet.depths
    blocks = [(level, number) for level, depth in enumerate(depths) for number in range(depth)]
    cnn = nnx.eval_shape(lambda: make_cnn(config, image_size, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    leaves = [nnx.to_pure_dict(state) for state in nnx.split(cnn, nnx.Param, nnx.BatchStat)[1:]]
    names = jax.tree.map_with_path(
        lambda path, leaf: _their_name([key.key for key in path[1:]], layout, blocks), leaves
    )
    wanted = dict(zip(jax.tree.leaves(names), map(_torch_shape, jax.tree.leaves(leaves)), strict=True))
    _require_same_tensors(tensors, wanted, f"{path} does not fit model.{config.cnn}")
    params, batch_stats = jax.tree.map(lambda name: _from_torch(tensors[name]), names)
    return params, batch_stats


def _their_name(path: list[Any], layout: _Layout, blocks: list[tuple[int, int]]) -> str:
    leaf = _LEAVES[path[-1]]
    if path[0] != "blocks":
        return f"{layout.outside[path[0]]}.{leaf}"
    level, number = blocks[path[1]]
    block = layout.block.format(level=layout.first_level + level, number=number)
    return f"{block}.{layout.inside['.'.join(path[2:-1])]}.{leaf}"


def _torch_shape(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    return tuple(leaf.shape[axis] for axis in (3, 2, 0, 1)) if leaf.ndim == 4 else leaf.shape


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor
    return np.asarray(tensor, np.float32)


def _require_same_tensors(
    tensors: dict[str, np.ndarray], wanted: dict[str, tuple[int, ...]], told: str
) -> None:
    found = {name: tensor.shape for name, tensor in tensors.items()}
    problems = [
        f"{name}: {found.get(name, 'missing')} in the file, {wanted.get(name, 'unknown')} in the model"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if len(problems) > _SHOWN_PROBLEMS:
        problems[_SHOWN_PROBLEMS:] = [f"and {len(problems) - _SHOWN_PROBLEMS} more"]
    if problems:
        raise WeightsError(f"{told}:\n  " + "\n  ".join(problems))


def _check_settings(path: Path) -> None:
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key, value in _ONLY_SETTINGS.items():
        if settings.get(key, value) != value:
            raise WeightsError(f"{path} says {key}={settings[key]!r}; only {value!r} is supported")


def _find(source: str) -> Path:
    """The weight file that `source` means: itself, in the folder, or in the Hugging Face cache."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        for name in _FILES:
            if (path / name).is_file():
                return path / name
        raise WeightsError(f"model.cnn_weights: the folder {path} holds neither {' nor '.join(_FILES)}")
    from_scratch = "--config.model.cnn_weights= trains from scratch"
    try:
        for name in _FILES:
            if isinstance(cached := try_to_load_from_cache(source, name), str):
                return Path(cached)
    except HFValidationError:  # not what a hub name looks like
        raise WeightsError(f"model.cnn_weights: there is no file {path}; {from_scratch}") from None
    raise WeightsError(
        f"model.cnn_weights: {source!r} is neither a file nor in the Hugging Face cache; "
        f"`hf download {source}` puts it there, {from_scratch}"
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path} is no safetensors file: {error}") from None
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path} needs PyTorch to be read: pip install torch, or use safetensors"
        ) from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler meets
        raise WeightsError(f"{path} is no file of PyTorch weights: {str(error).splitlines()[0]}") from None
    if not isinstance(tensors, dict) or not all(isinstance(x, torch.Tensor) for x in tensors.values()):
        raise WeightsError(f"{path} is no file of PyTorch weights: it is not a dictionary of tensors")
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}
