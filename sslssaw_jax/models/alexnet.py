"""AlexNet over frames (Krizhevsky et al. 2012) up to its last hidden layer, as the public NSLT runs it.

The layers are those of the public weights `bvlc_alexnet.npy`, which expect blue first and levels from 0 to
255 minus Caffe's mean pixel. The public code's dropout after both hidden layers is left out; the reader of
the features applies dropout to them. That code subtracts the corpus's mean image in place of a mean pixel,
and as released it draws all weights anew after loading these.

N frames, H x W pixels, C channels.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from sslssaw_jax.config.checks import positive, require
from sslssaw_jax.types import PIXEL_MEAN, PIXEL_STD

MEAN_BGR = (104.00699, 116.66877, 122.67892)  # Caffe's mean pixel
MIN_SIDE = 67  # of a frame that leaves one pixel


@dataclass(frozen=True)
class AlexNetConfig:
    """Sizes of an AlexNet; the published ones by default."""

    widths: tuple[int, ...] = (96, 256, 384, 384, 256)  # channels of its five convolutions
    features: int = positive(4096)  # of both hidden layers

    def __post_init__(self) -> None:
        fits = len(self.widths) == 5 and all(width > 0 and width % 2 == 0 for width in self.widths)
        require(
            fits, f"widths is {self.widths}; it must be five even numbers, since halves are convolved apart"
        )


class AlexNet(nnx.Module):
    """Five convolutions, three of them in two halves, and two hidden layers."""

    def __init__(self, config: AlexNetConfig, image_size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        require(
            image_size >= MIN_SIDE,
            f"config.data.image_size is {image_size}; AlexNet needs {MIN_SIDE}, its weights 227",
        )
        self.features, widths = config.features, config.widths
        conv = partial(nnx.Conv, dtype=dtype, rngs=rngs)
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.conv1 = conv(3, widths[0], (11, 11), 4, padding="VALID")
        self.conv2 = conv(widths[0], widths[1], (5, 5), feature_group_count=2)
        self.conv3 = conv(widths[1], widths[2], (3, 3))
        self.conv4 = conv(widths[2], widths[3], (3, 3), feature_group_count=2)
        self.conv5 = conv(widths[3], widths[4], (3, 3), feature_group_count=2)
        side = (image_size - 11) // 4 + 1
        for _ in range(3):
            side = (side - 3) // 2 + 1
        self.fc6 = linear(side * side * widths[4], config.features)
        self.fc7 = linear(config.features, config.features)

    def __call__(self, frames_NxHxWx3: jax.Array, frame_mask_N: jax.Array) -> jax.Array:
        """Return features [N, features] of normalized frames; no frame sees another."""
        del frame_mask_N
        levels = (frames_NxHxWx3 * jnp.asarray(PIXEL_STD) + jnp.asarray(PIXEL_MEAN)) * 255
        x_NxHxWxC = _pool(_normalize(nnx.relu(self.conv1(levels[..., ::-1] - jnp.asarray(MEAN_BGR)))))
        x_NxHxWxC = _pool(_normalize(nnx.relu(self.conv2(x_NxHxWxC))))
        x_NxHxWxC = nnx.relu(self.conv4(nnx.relu(self.conv3(x_NxHxWxC))))
        x_NxHxWxC = _pool(nnx.relu(self.conv5(x_NxHxWxC)))
        return nnx.relu(self.fc7(nnx.relu(self.fc6(x_NxHxWxC.reshape(len(x_NxHxWxC), -1)))))


def _pool(x_NxHxWxC: jax.Array) -> jax.Array:
    return nnx.max_pool(x_NxHxWxC, (3, 3), (2, 2))


def _normalize(x_NxHxWxC: jax.Array) -> jax.Array:
    """Divide by the squares of five channels around each channel."""
    squares = jnp.square(x_NxHxWxC.astype(jnp.float32))
    window = (1, 1, 1, 5)
    total = lax.reduce_window(squares, 0.0, lax.add, window, (1, 1, 1, 1), ((0, 0), (0, 0), (0, 0), (2, 2)))
    return (x_NxHxWxC * (1 + 2e-5 * total) ** -0.75).astype(x_NxHxWxC.dtype)
