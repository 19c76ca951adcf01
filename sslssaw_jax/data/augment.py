"""Stored frames to normalized pixels on the device, with augmentation per clip; the same for keypoints.

B clips, N packed frames, S x S stored pixels, H x W output pixels, K keypoints.
"""

import jax
import jax.numpy as jnp

from sslssaw_jax.config.data import AugmentConfig, DataConfig
from sslssaw_jax.types import PIXEL_MEAN, PIXEL_STD, Batch


def clip_of_frame(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Return each packed frame's clip, i32[N], and whether there is one, bool[N]."""
    frame_Nx1 = jnp.arange(batch.frames.shape[0])[:, None]
    inside_NxB = (frame_Nx1 >= batch.frame_start) & (frame_Nx1 < batch.frame_start + batch.frame_count)
    return inside_NxB.argmax(axis=1), inside_NxB.any(axis=1)


def prepare_frames(batch: Batch, config: DataConfig, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return normalized pixels, f32[N, size, size, 3], and their mask, bool[N].

    Stored frames are resized so that the output window covers `crop_fraction` of the stored side.

    Args:
        batch: Clips with stored frames.
        config: The size of the window, and the augmentation.
        key: Draws warp and colour of each clip; None, for evaluation, takes the window at the centre.
    """
    clip_N, mask_N = clip_of_frame(batch)
    size = config.image_size
    stored = round(size / config.crop_fraction)
    frames_NxSxSx3 = batch.frames.astype(jnp.float32) / 255
    if batch.frames.shape[1:3] != (stored, stored):
        shape = (batch.frames.shape[0], stored, stored, 3)
        frames_NxSxSx3 = jax.image.resize(frames_NxSxSx3, shape, "linear")
    drawn, key = _split_warps(key, config, len(batch.valid))
    if drawn:
        matrix_Bx2x2, centre_Bx2 = drawn
        frames_NxHxWx3 = _warp(frames_NxSxSx3, matrix_Bx2x2[clip_N], centre_Bx2[clip_N], size)
    else:
        low = (stored - size) // 2
        frames_NxHxWx3 = frames_NxSxSx3[:, low : low + size, low : low + size]
    if key is not None:
        frames_NxHxWx3 = _recolour(key, frames_NxHxWx3, config.augment, len(batch.valid), clip_N)
    return (frames_NxHxWx3 - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD), mask_N


def prepare_keypoints(batch: Batch, config: DataConfig, key: jax.Array | None) -> jax.Array:
    """Return keypoints where `prepare_frames` shows them, f32[N, K, 3].

    With the same key, a point moves like the pixels of its frame. It has x and y, as shares of the
    output window from the left and the upper edge, and its score; outside the window the shares are below 0
    or above 1. A mirrored point keeps its name.

    Args:
        batch: Clips with keypoints.
        config: As for `prepare_frames`.
        key: As for `prepare_frames`.
    """
    assert batch.keypoints is not None, "the configuration names no keypoint set"
    size = config.image_size
    stored = round(size / config.crop_fraction)
    points_NxKx3 = batch.keypoints.values.astype(jnp.float32)
    points_NxKx3 = points_NxKx3.reshape(len(points_NxKx3), -1, 3)
    # in pixels, whose centres are whole numbers
    x_NxK, y_NxK = points_NxKx3[..., 0] * stored - 0.5, points_NxKx3[..., 1] * stored - 0.5
    drawn, _ = _split_warps(key, config, len(batch.valid))
    if drawn:
        clip_N, _ = clip_of_frame(batch)
        matrix_Nx2x2, centre_Nx2 = drawn[0][clip_N], drawn[1][clip_N]
        y_NxK, x_NxK = y_NxK - centre_Nx2[:, :1], x_NxK - centre_Nx2[:, 1:]
        (down_y, right_y), (down_x, right_x) = (
            (matrix_Nx2x2[:, axis, 0, None], matrix_Nx2x2[:, axis, 1, None]) for axis in range(2)
        )
        determinant = down_y * right_x - right_y * down_x
        y_NxK, x_NxK = (
            (right_x * y_NxK - right_y * x_NxK) / determinant + (size - 1) / 2,
            (down_y * x_NxK - down_x * y_NxK) / determinant + (size - 1) / 2,
        )
    else:
        y_NxK, x_NxK = y_NxK - (stored - size) // 2, x_NxK - (stored - size) // 2
    return jnp.stack([(x_NxK + 0.5) / size, (y_NxK + 0.5) / size, points_NxKx3[..., 2]], axis=-1)


def _split_warps(
    key: jax.Array | None, config: DataConfig, num_clips: int
) -> tuple[tuple[jax.Array, jax.Array] | None, jax.Array | None]:
    """Draw each clip's warp, if any, and return the key for colours."""
    stored = round(config.image_size / config.crop_fraction)
    if key is None or not _warps(config.augment, margin=stored - config.image_size):
        return None, key
    warp_key, key = jax.random.split(key)
    return _draw_warps(warp_key, config.augment, num_clips, stored, config.image_size), key


def _warps(augment: AugmentConfig, margin: int) -> bool:
    moves = augment.rotation or augment.scale or augment.translation or augment.mirror
    return bool(moves or (augment.crop and margin))


def _draw_warps(
    key: jax.Array, augment: AugmentConfig, num_clips: int, stored: int, size: int
) -> tuple[jax.Array, jax.Array]:
    """Draw each clip's matrix, output to stored offsets, and window centre."""
    turn_key, scale_key, shift_key, crop_key, mirror_key = jax.random.split(key, 5)
    angle_B = jnp.deg2rad(_symmetric(turn_key, (num_clips,), augment.rotation))
    zoom_B = 1 / (1 + _symmetric(scale_key, (num_clips,), augment.scale))
    cos_B, sin_B = jnp.cos(angle_B) * zoom_B, jnp.sin(angle_B) * zoom_B
    flip_B = jnp.where(augment.mirror & jax.random.bernoulli(mirror_key, 0.5, (num_clips,)), -1.0, 1.0)
    matrix_Bx2x2 = jnp.stack(
        [jnp.stack([cos_B, -sin_B * flip_B], -1), jnp.stack([sin_B, cos_B * flip_B], -1)], axis=-2
    )
    centre_Bx2 = (stored - 1) / 2 + _symmetric(shift_key, (num_clips, 2), augment.translation * size)
    if augment.crop:
        low = (stored - size) // 2
        whole_Bx2 = jax.random.randint(crop_key, (num_clips, 2), -low, stored - size - low + 1)
        centre_Bx2 = centre_Bx2 + whole_Bx2  # whole pixels: a crop alone does not blur
    # with an odd margin the centre lies between pixels: shift like the centre crop of evaluation
    return matrix_Bx2x2, centre_Bx2 - 0.5 * ((stored - size) % 2)


def _warp(frames_NxSxSx3: jax.Array, matrix_Nx2x2: jax.Array, centre_Nx2: jax.Array, size: int) -> jax.Array:
    """Resample frames bilinearly; beyond the edge, the edge pixel repeats."""
    stored = frames_NxSxSx3.shape[1]
    offset_W = jnp.arange(size) - (size - 1) / 2
    offset_Hx1 = offset_W[:, None]
    frame_Nx1x1 = jnp.arange(frames_NxSxSx3.shape[0])[:, None, None]

    def split_places(axis: int) -> tuple[jax.Array, jax.Array]:
        """Split each output pixel's place into a stored pixel and the rest."""
        down_Nx1x1, right_Nx1x1 = (matrix_Nx2x2[:, axis, i, None, None] for i in range(2))
        # a matrix product would run in TF32 on GPUs and move pixels by up to a twentieth
        place_NxHxW = down_Nx1x1 * offset_Hx1 + right_Nx1x1 * offset_W + centre_Nx2[:, axis, None, None]
        place_NxHxW = jnp.clip(place_NxHxW, 0, stored - 1)
        low_NxHxW = jnp.minimum(place_NxHxW.astype(jnp.int32), stored - 2)
        return low_NxHxW, place_NxHxW - low_NxHxW

    (y, wy), (x, wx) = split_places(0), split_places(1)

    def corner(dy: int, dx: int) -> jax.Array:
        weight = (wy if dy else 1 - wy) * (wx if dx else 1 - wx)
        return frames_NxSxSx3[frame_Nx1x1, y + dy, x + dx] * weight[..., None]

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)


def _recolour(
    key: jax.Array, frames_NxHxWx3: jax.Array, augment: AugmentConfig, num_clips: int, clip_N: jax.Array
) -> jax.Array:
    """Change contrast about mid-grey per channel, and brightness, drawn per clip."""
    contrast_key, brightness_key = jax.random.split(key)
    gain_Bx3 = 1 + _symmetric(contrast_key, (num_clips, 3), augment.contrast)
    shift_Bx1 = _symmetric(brightness_key, (num_clips, 1), augment.brightness)
    bias_Bx3 = 0.5 - 0.5 * gain_Bx3 + shift_Bx1
    return frames_NxHxWx3 * gain_Bx3[clip_N][:, None, None] + bias_Bx3[clip_N][:, None, None]


def _symmetric(key: jax.Array, shape: tuple[int, ...], amount: float) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-amount, maxval=amount)
