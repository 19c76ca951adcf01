"""The CNN that turns each frame into a vector.

N frames, H x W pixels, C channels.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import group, require, setting
from sslssaw_jax.models.alexnet import AlexNet, AlexNetConfig
from sslssaw_jax.models.resnet import ResNet, ResNetConfig
from sslssaw_jax.models.shufflenet import ShuffleNetConfig, ShuffleNetV2
from sslssaw_jax.models.vgg import VGG, VGGConfig

CNN = ResNet | ShuffleNetV2 | AlexNet | VGG


@dataclass(frozen=True)
class CNNConfig:
    """The choice of the CNN, its sizes and its pretrained weights."""

    kind: Literal["resnet", "shufflenet", "alexnet", "vgg"] = "resnet"
    # torchvision's file, or folder or hub name of a Hugging Face ResNet, of the same sizes; for an AlexNet,
    # bvlc_alexnet.npy; None: random
    weights: str | None = setting(None)
    resnet: ResNetConfig = group(ResNetConfig)
    shufflenet: ShuffleNetConfig = group(ShuffleNetConfig)
    alexnet: AlexNetConfig = group(AlexNetConfig)
    vgg: VGGConfig = group(VGGConfig)

    def __post_init__(self) -> None:
        pretrained_layout = self.resnet.stem == "conv7_pool" and self.resnet.head == "pool"
        require(
            not self.weights or self.kind != "resnet" or pretrained_layout,
            f"weights is {self.weights!r}; such weights need resnet.stem='conv7_pool' and "
            "resnet.head='pool': set both, or clear weights",
        )


def make_cnn(config: CNNConfig, image_size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> CNN:
    """Make the CNN: `(frames_NxHxWx3, mask_N)` to features `[N, cnn.features]`."""
    if config.kind == "shufflenet":
        return ShuffleNetV2(config.shufflenet, dtype=dtype, rngs=rngs)
    if config.kind == "alexnet":
        return AlexNet(config.alexnet, image_size, dtype=dtype, rngs=rngs)
    if config.kind == "vgg":
        return VGG(config.vgg, image_size, dtype=dtype, rngs=rngs)
    return ResNet(config.resnet, image_size, dtype=dtype, rngs=rngs)
