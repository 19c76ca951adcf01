"""Pretrained CNNs from torchvision, Hugging Face and, for AlexNet, Caffe; strict both ways.

PyTorch's running variances are unbiased, ours are biased; PyTorch's are taken as they are.
"""

from typing import NamedTuple

from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.alexnet import pretrained_alexnet
from sslssaw_jax.weights.initial_state import InitialWeights, KeyPath, WeightsError, variables
from sslssaw_jax.weights.torch_files import Checkpoint, find_model
from sslssaw_jax.weights.torch_layout import load_tensors, torch_leaf

_LEFT_OUT = ("fc.", "classifier.")  # names of classifier layers begin like this
_COUNTER = "num_batches_tracked"  # of a BatchNorm in PyTorch


class _Layout(NamedTuple):
    """A table of another project's names for our modules."""

    outside: dict[str, str]  # modules that are not in a block
    block: str  # name of a block, by the number of its level and its own number there
    first_level: int
    inside: dict[str, str]  # modules of a block


_TORCHVISION_RESNET = _Layout(
    {"stem": "conv1", "stem_norm": "bn1"},
    "layer{level}.{number}",
    first_level=1,
    inside={f"conv{i}": f"conv{i}" for i in (1, 2, 3)}
    | {f"norm{i}": f"bn{i}" for i in (1, 2, 3)}
    | {"shortcut.conv": "downsample.0", "shortcut.norm": "downsample.1"},
)
_HUGGING_FACE_RESNET = _Layout(
    {"stem": "embedder.embedder.convolution", "stem_norm": "embedder.embedder.normalization"},
    "encoder.stages.{level}.layers.{number}",
    first_level=0,
    inside={f"conv{i}": f"layer.{i - 1}.convolution" for i in (1, 2, 3)}
    | {f"norm{i}": f"layer.{i - 1}.normalization" for i in (1, 2, 3)}
    | {"shortcut.conv": "shortcut.convolution", "shortcut.norm": "shortcut.normalization"},
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

# torchvision's numbers of the convolutions in each block of a VGG-11; pools and ReLUs count, too
_TORCHVISION_VGG = ((0,), (3,), (6, 8), (11, 13), (16,), (18,))


def pretrained_cnn(config: CNNConfig) -> InitialWeights:
    """Return the function that loads `config.weights` into a state's `cnn` or `video.cnn`.

    Only classifiers and batch counters are left out. The function raises WeightsError if a tensor is missing,
    has no place, or has another shape.

    Raises:
        WeightsError: There is no such file, or its settings are not those of a published ResNet.
    """
    if config.kind == "alexnet":
        return pretrained_alexnet(str(config.weights))
    checkpoint = _open(str(config.weights))
    tensors = {
        name.removeprefix("resnet."): name  # Hugging Face's classifiers have this prefix
        for name in checkpoint.shapes
        if not name.startswith(_LEFT_OUT) and not name.endswith(_COUNTER)
    }
    layout = _torchvision_layout(config)
    is_resnet = config.kind == "resnet"
    if is_resnet and any(name.startswith("embedder.") for name in tensors):
        layout = _HUGGING_FACE_RESNET
        checkpoint.require_settings(
            {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}
        )

    def load(state: TrainState) -> TrainState:
        own = (path for path in variables(state) if "cnn" in path[:2])
        names = {path: _name(path[path.index("cnn") + 1 :], layout, config) for path in own}
        model = f"config.model.cnn.{config.kind}"
        return load_tensors(state, names, checkpoint, tensors, model) if names else state

    return load


def torchvision_name(path: KeyPath, config: CNNConfig) -> str:
    """Return torchvision's name for a variable of our CNN."""
    return _name(path, _torchvision_layout(config), config)


def _torchvision_layout(config: CNNConfig) -> _Layout:
    return _TORCHVISION_RESNET if config.kind == "resnet" else _TORCHVISION_SHUFFLENET


def _name(path: KeyPath, layout: _Layout, config: CNNConfig) -> str:
    if config.kind == "vgg":
        _, block, _, number, _ = path
        return f"features.{_TORCHVISION_VGG[block][number]}.{torch_leaf(path)}"
    if path[0] != "blocks":
        return f"{layout.outside[path[0]]}.{torch_leaf(path)}"
    depths = config.resnet.depths if config.kind == "resnet" else config.shufflenet.depths
    blocks = [(level, number) for level, depth in enumerate(depths) for number in range(depth)]
    level, number = blocks[path[1]]
    block = layout.block.format(level=layout.first_level + level, number=number)
    return f"{block}.{layout.inside['.'.join(map(str, path[2:-1]))]}.{torch_leaf(path)}"


def _open(weights: str) -> Checkpoint:
    try:
        return Checkpoint(find_model(weights))
    except WeightsError as error:
        raise WeightsError(
            f"config.model.cnn.weights: {error}. Name a file from torchvision, or a Hugging Face ResNet that "
            "`hf download microsoft/resnet-18` fetches; --config.model.cnn.weights= trains from scratch"
        ) from error
