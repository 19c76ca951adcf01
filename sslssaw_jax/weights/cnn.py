"""Pretrained CNNs: the weights of torchvision and Hugging Face for our modules, strict both ways.

Torch's running variances are unbiased, those of our own training biased; they are taken as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.config.model import ModelConfig
from sslssaw_jax.models.video_embedding import make_cnn
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.torch_files import Checkpoint, WeightsError, require_same_tensors, resolve
from sslssaw_jax.weights.transfer import CNN_ALONE, fill

_CLASSIFIERS = ("fc.weight", "fc.bias", "classifier.1.weight", "classifier.1.bias")
LEAVES = {
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
    """The function that puts `model.cnn.weights` into a state; all is read and checked before it runs.

    Raises:
        WeightsError: as `load_cnn`.
    """
    params, batch_stats = load_cnn(config.model, config.data.image_size)

    def start(state: TrainState) -> TrainState:
        return fill(state, {"cnn": params}, {"cnn": batch_stats}, CNN_ALONE, config.model.cnn.weights)

    return start


def load_cnn(config: ModelConfig, image_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and batch statistics (nested dicts of float32 NumPy arrays) of the CNN of `config`.

    Reads `config.cnn_weights`: a file (torchvision's `.pth`, `.safetensors`), a Hugging Face folder, or a
    name on the Hugging Face hub. Classifiers and counters of batches are the only tensors left out.

    Raises:
        WeightsError: there is no such file, or a tensor has no place, is missing or is of another shape.
    """
    checkpoint = _open(config.cnn_weights)
    tensors = {
        name.removeprefix("resnet."): name  # the prefix is that of a classifier at Hugging Face
        for name in checkpoint.shapes
        if name not in _CLASSIFIERS and not name.endswith("num_batches_tracked")
    }
    layout, blocks = _layout_and_blocks(config)
    if config.cnn == "resnet" and any(name.startswith("embedder.") for name in tensors):
        layout = _HUGGING_FACE_RESNET
        _check_settings(checkpoint)
    cnn = nnx.eval_shape(lambda: make_cnn(config, image_size, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)))
    leaves = [nnx.to_pure_dict(state) for state in nnx.split(cnn, nnx.Param, nnx.BatchStat)[1:]]
    names = jax.tree.map_with_path(
        lambda path, leaf: _their_name([key.key for key in path[1:]], layout, blocks), leaves
    )
    wanted = dict(zip(jax.tree.leaves(names), map(_torch_shape, jax.tree.leaves(leaves)), strict=True))
    found = {short: checkpoint.shapes[name] for short, name in tensors.items()}
    require_same_tensors(found, wanted, f"{checkpoint.path} does not fit model.{config.cnn}")
    params, batch_stats = jax.tree.map(lambda name: _from_torch(checkpoint.read(tensors[name])), names)
    return params, batch_stats


def torchvision_name(path: Sequence[Any], config: ModelConfig) -> str:
    """Torchvision's name of a parameter or statistic of our CNN."""
    layout, blocks = _layout_and_blocks(config)
    return _their_name(path, layout, blocks)


def _layout_and_blocks(config: ModelConfig) -> tuple[_Layout, list[tuple[int, int]]]:
    is_shufflenet = config.cnn == "shufflenet"
    depths = config.shufflenet.depths if is_shufflenet else config.resnet.depths
    blocks = [(level, number) for level, depth in enumerate(depths) for number in range(depth)]
    return _TORCHVISION_SHUFFLENET if is_shufflenet else _TORCHVISION_RESNET, blocks


def _their_name(path: Sequence[Any], layout: _Layout, blocks: list[tuple[int, int]]) -> str:
    leaf = LEAVES[path[-1]]
    if path[0] != "blocks":
        return f"{layout.outside[path[0]]}.{leaf}"
    level, number = blocks[path[1]]
    block = layout.block.format(level=layout.first_level + level, number=number)
    return f"{block}.{layout.inside['.'.join(path[2:-1])]}.{leaf}"


def _torch_shape(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    return tuple(leaf.shape[axis] for axis in (3, 2, 0, 1)) if leaf.ndim == 4 else leaf.shape


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _check_settings(checkpoint: Checkpoint) -> None:
    settings = checkpoint.config
    for key, value in _ONLY_SETTINGS.items():
        if settings.get(key, value) != value:
            raise WeightsError(f"{checkpoint.path} has {key}={settings[key]!r}; only {value!r} is supported")


def _open(source: str) -> Checkpoint:
    try:
        return Checkpoint(resolve(source))
    except WeightsError as error:
        raise WeightsError(
            f"model.cnn.weights: {error}. Name a file of torchvision, or a Hugging Face ResNet that "
            "`hf download microsoft/resnet-18` fetches; --config.model.cnn.weights= trains from scratch"
        ) from error
