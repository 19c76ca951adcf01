import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslssaw_jax.config.data import AugmentConfig, DataConfig
from sslssaw_jax.data import augment
from sslssaw_jax.data.augment import clip_of_frame, prepare_frames, prepare_keypoints
from sslssaw_jax.types import PIXEL_MEAN as MEAN
from sslssaw_jax.types import PIXEL_STD as STD
from sslssaw_jax.types import Features
from tests.support.toy import assert_close, padded, toy_batch

SIDE = 16  # of the frames in toy batches
EVERYTHING = AugmentConfig(
    rotation=20, scale=0.2, translation=0.1, crop=True, brightness=0.2, contrast=0.2, mirror=True
)


def data_config(image_size: int = SIDE, crop_fraction: float = 1.0, **changes) -> DataConfig:
    return DataConfig(image_size=image_size, crop_fraction=crop_fraction, augment=AugmentConfig(**changes))


def prepare(batch, config, seed=None):
    """Prepared frames as colours from 0 to 1."""
    key = None if seed is None else jax.random.key(seed)
    frames, _ = jax.jit(prepare_frames, static_argnums=1)(batch, config, key)
    return np.asarray(frames) * np.array(STD) + np.array(MEAN)


@pytest.fixture(scope="module")
def batch():
    return padded(toy_batch(seed=0, clips=3), rows=1, frames=4)


@pytest.fixture(scope="module")
def alike(batch):
    """All frames of all clips show the same picture."""
    return batch.replace(frames=np.broadcast_to(batch.frames[:1], batch.frames.shape))


def test_each_frame_belongs_to_its_clip_and_the_last_ones_to_none(batch):
    clip, real = clip_of_frame(batch)
    expected = np.repeat(np.arange(3), batch.frame_count[:3])
    np.testing.assert_array_equal(clip[real], expected)
    np.testing.assert_array_equal(real, np.arange(len(batch.frames)) < len(expected))
    _, mask = prepare_frames(batch, data_config(), None)
    np.testing.assert_array_equal(mask, real)


def test_evaluation_of_the_stored_size_only_normalises(batch):
    frames, _ = prepare_frames(batch, data_config(), None)
    assert_close(frames, (batch.frames / 255 - MEAN) / STD, 1e-6)


@pytest.mark.parametrize("image_size", [12, 11])  # margins of 4 and of 5
def test_evaluation_takes_the_centre_of_the_stored_image(batch, image_size):
    frames = prepare(batch, data_config(image_size, crop_fraction=image_size / SIDE))
    window = slice(2, 2 + image_size)
    np.testing.assert_allclose(frames, batch.frames[:, window, window] / 255, atol=1e-6)


@pytest.mark.parametrize("image_size", [16, 12, 11])
@pytest.mark.parametrize("amounts", [{}, {"crop": True}])
def test_without_amounts_training_sees_what_evaluation_sees(batch, image_size, amounts):
    """Without a margin, there is nothing to crop."""
    crop_fraction = 1.0 if amounts else image_size / SIDE
    config = data_config(image_size, crop_fraction, **amounts)
    np.testing.assert_allclose(prepare(batch, config, seed=1), prepare(batch, config), atol=1e-6)


@pytest.mark.parametrize("image_size", [12, 11])
def test_a_vanishing_warp_is_the_evaluation(batch, image_size):
    """The warp resamples the same window that evaluation cuts out."""
    crop_fraction = image_size / SIDE
    warped = prepare(batch, data_config(image_size, crop_fraction, scale=1e-7), seed=1)
    np.testing.assert_allclose(warped, prepare(batch, data_config(image_size, crop_fraction)), atol=1e-4)


@pytest.mark.parametrize("image_size", [12, 11])
def test_a_crop_copies_pixels_from_anywhere_in_the_stored_image(alike, image_size):
    config = data_config(image_size, crop_fraction=image_size / SIDE, crop=True)
    margin = SIDE - image_size
    picture = alike.frames[0] / 255
    places = set()
    for seed in range(60):
        cropped = prepare(alike, config, seed)[0]
        found = [
            (y, x)
            for y in range(margin + 1)
            for x in range(margin + 1)
            if np.allclose(cropped, picture[y : y + image_size, x : x + image_size], atol=1e-5)
        ]
        assert len(found) == 1
        places.add(found[0])
    for axis in zip(*places):
        assert set(axis) == set(range(margin + 1))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_move_pixels_as_rot90_does(batch, quarters, monkeypatch):
    """Positive angles turn the picture clockwise."""
    monkeypatch.setattr(augment, "_symmetric", lambda key, shape, amount: jnp.full(shape, amount))
    turned, _ = prepare_frames(batch, data_config(rotation=90.0 * quarters), jax.random.key(0))
    expected, _ = prepare_frames(batch, data_config(), None)
    np.testing.assert_allclose(turned, np.rot90(expected, -quarters, axes=(1, 2)), atol=1e-4)


def test_a_scale_above_one_enlarges_the_picture(monkeypatch, batch):
    monkeypatch.setattr(augment, "_symmetric", lambda key, shape, amount: jnp.full(shape, amount))
    square = np.zeros_like(batch.frames)
    square[:, 6:10, 6:10] = 255
    batch = batch.replace(frames=square)
    larger, _ = prepare_frames(batch, data_config(scale=1.0), jax.random.key(0))
    lit = np.asarray(larger * jnp.asarray(STD) + jnp.asarray(MEAN))[0, :, :, 0] > 0.5
    expected = np.zeros((SIDE, SIDE), bool)
    expected[4:12, 4:12] = True
    np.testing.assert_array_equal(lit, expected)


def test_a_mirror_flips_some_clips_and_leaves_the_others(alike):
    picture = alike.frames[0] / 255
    flipped = set()
    for seed in range(8):
        frame = prepare(alike, data_config(mirror=True), seed)[0]
        is_flipped = np.allclose(frame, picture[:, ::-1], atol=1e-5)
        assert is_flipped or np.allclose(frame, picture, atol=1e-5)
        flipped.add(is_flipped)
    assert flipped == {True, False}


def test_all_frames_of_a_clip_change_alike_and_each_clip_on_its_own(alike):
    config = DataConfig(image_size=12, crop_fraction=0.75, augment=EVERYTHING)
    frames = prepare(alike, config, seed=3)
    clips = [frames[start:][:count] for start, count in zip(alike.frame_start[:3], alike.frame_count[:3])]
    for clip in clips:
        np.testing.assert_allclose(clip, np.broadcast_to(clip[0], clip.shape), atol=1e-6)
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        assert np.abs(clips[i][0] - clips[j][0]).max() > 0.1
    assert np.abs(prepare(alike, config, seed=4) - frames).max() > 0.1


def test_the_warp_is_exact_on_a_linear_picture(batch, monkeypatch):
    """Bilinear resampling of a ramp gives the ramp at the place that the affine map names."""
    ramp = np.broadcast_to(np.arange(SIDE, dtype=np.float32)[:, None] * 8, (SIDE, SIDE))
    ramp = ramp + np.arange(SIDE, dtype=np.float32) * 3
    frames = np.broadcast_to(ramp[None, :, :, None], (2, SIDE, SIDE, 3))
    matrix = np.array([[[0.8, 0.1], [-0.2, 0.9]], [[1.0, 0.0], [0.0, -1.0]]], np.float32)
    centre = np.array([[7.0, 8.0], [7.5, 7.5]], np.float32)
    size = 9
    warped = augment._warp(jnp.asarray(frames), matrix, centre, size)
    for frame in range(2):
        for row in range(size):
            for column in range(size):
                y, x = matrix[frame] @ (row - 4, column - 4) + centre[frame]
                np.testing.assert_allclose(warped[frame, row, column], 8 * y + 3 * x, rtol=1e-4)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("changes", [{"crop": True}, {"rotation": 25, "scale": 0.3, "mirror": True}])
def test_a_bright_dot_is_found_where_its_keypoint_is(batch, seed, changes):
    frames = np.zeros_like(batch.frames)
    places = np.array([(4, 7), (9, 5), (10, 10)])  # x and y of a dot for each channel
    for channel, (x, y) in enumerate(places):
        frames[:, y, x, channel] = 255
    rows = np.column_stack([(places + 0.5) / SIDE, [1, 0.5, 0]]).astype(np.float16).reshape(1, 9)
    points = Features(np.repeat(rows, len(frames), 0), batch.frame_start, batch.frame_count)
    batch = batch.replace(frames=frames, keypoints=points)
    config = data_config(24, 0.75, **changes)  # from 16 pixels to 32, with a window of 24 of them
    key = None if seed is None else jax.random.key(seed)
    shown = np.maximum(prepare(batch, config, seed), 0)
    moved = np.asarray(jax.jit(prepare_keypoints, static_argnums=1)(batch, config, key))
    np.testing.assert_array_equal(moved[..., 2], np.broadcast_to([1, 0.5, 0], moved.shape[:2]))
    across = (np.arange(24) + 0.5) / 24
    found, visible = np.stack([across[shown.max(2).argmax(1)], across[shown.max(1).argmax(1)]][::-1], -1), 0
    for place, dot in zip(found[:14].reshape(-1, 2), moved[:14, :, :2].reshape(-1, 2)):
        if (np.abs(dot - 0.5) < 0.45).all():
            assert np.abs(place - dot).max() < 1.1 / 24
            visible += 1
    assert visible > 10


@pytest.mark.parametrize("image_size", [8, 24])
def test_frames_of_another_size_are_resized(batch, image_size):
    halves = np.zeros_like(batch.frames)
    halves[:, :, : SIDE // 2] = 255
    frames = prepare(batch.replace(frames=halves), data_config(image_size))
    assert frames.shape == (len(batch.frames), image_size, image_size, 3)
    left, right = frames[:, :, : image_size // 4], frames[:, :, -image_size // 4 :]
    np.testing.assert_allclose(left, 1, atol=1e-5)
    np.testing.assert_allclose(right, 0, atol=1e-5)
