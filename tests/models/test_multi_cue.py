"""STMC's networks: points where maps are bright, squares around them, and equality with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.multi_cue import (
    POINTS,
    MultiCueConfig,
    MultiCueEmbedding,
    TemporalCues,
    cut_out,
    expected_places,
)
from sslssaw_jax.models.vgg import VGGConfig
from sslssaw_jax.models.video_embedding import VideoInput
from sslssaw_jax.types import PackedClips
from tests.support.toy import assert_close, jit, random_model

SIDE, FRAMES = 48, 3
CONFIG = MultiCueConfig(width=4, joint_width=6, hand_side=6, face_side=4, dropout=0.0)
WIDTHS = VGGConfig((3, 3, 4, 5, 6))


def embedding(stride=1):
    reads = VideoInput(SIDE, max_frames=9, frame_stride=stride)
    return MultiCueEmbedding(WIDTHS, CONFIG, reads, dtype=jnp.float32, rngs=Keys(0))


def test_the_expected_place_of_a_map_with_one_bright_pixel_is_its_middle():
    rows, columns = np.array([0, 1, 5, 3]), np.array([7, 2, 0, 3])
    heat = np.zeros((1, 6, 8, 4), np.float32)
    heat[0, rows, columns, range(4)] = 200
    expected = np.stack([(columns + 0.5) / 8, (rows + 0.5) / 6], axis=-1)
    np.testing.assert_allclose(expected_places(heat)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(expected_places(0 * heat), 0.5, rtol=1e-6)


def test_a_square_lies_around_its_point_and_inside_the_map():
    maps = np.arange(2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8, 1)
    middle = (np.array([[4, 3], [7, 0]]) + 0.5) / 8  # x and y
    found = cut_out(maps, middle, 4)
    np.testing.assert_array_equal(found[0], maps[0, 1:5, 2:6])
    np.testing.assert_array_equal(found[1], maps[1, :4, 4:])


@pytest.mark.slow
def test_the_parts_of_a_frame_their_points_and_gradients_equal_torch():
    reference = pytest.importorskip("tests.support.multi_cue_reference")
    torch = reference.torch
    video = random_model(embedding, seed=2)
    graphdef, params, rest = nnx.split(video, nnx.Param, ...)
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(FRAMES, SIDE, SIDE, 3)).astype(np.float32)
    weights = [rng.normal(size=(FRAMES, width)).astype(np.float32) for width in (6, 8, 4, 4)]
    of_points = rng.normal(size=(FRAMES, len(POINTS), 2)).astype(np.float32)

    @jit
    def ours(params):
        def total(params):
            video = nnx.merge(graphdef, params, rest)
            parts, points = video.spatial(video.cnn.maps(frames))
            summed = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
            return summed + (points * of_points).sum(), (parts, points)

        return jax.grad(total, has_aux=True)(params)

    gradients, (parts, points) = ours(params)
    theirs = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), nnx.to_pure_dict(params))
    found, places = reference.frame_parts(
        theirs, torch.tensor(frames).permute(0, 3, 1, 2), CONFIG.hand_side, CONFIG.face_side
    )
    assert np.ptp(places.detach().numpy(), axis=0).max() > 0.02, "all crops would be one"
    for one, other in zip([*parts, points], [*found, places], strict=True):
        assert_close(one, other.detach().numpy())
    summed = sum((part * torch.tensor(weight)).sum() for part, weight in zip(found, weights))
    (summed + (places * torch.tensor(of_points)).sum()).backward()
    for name in ("cnn", "spatial"):
        expected = jax.tree.map(lambda x: x.grad.numpy(), theirs[name])
        assert_close(nnx.to_pure_dict(gradients)[name], expected, 1e-4)


def test_a_block_over_time_and_its_gradient_equal_torch():
    reference = pytest.importorskip("tests.support.multi_cue_reference")
    torch = reference.torch
    block = random_model(lambda: TemporalCues((3, 2), 5, CONFIG, dtype=jnp.float32, rngs=Keys(0)), seed=1)
    graphdef, params, rest = nnx.split(block, nnx.Param, ...)
    rng = np.random.default_rng(3)
    streams = [rng.normal(size=(2, 11, width)).astype(np.float32) for width in (5, 3, 2)]
    weights = [rng.normal(size=(2, 3, width)).astype(np.float32) for width in (6, 4, 4)]

    @jit
    def ours(params):
        def total(params):
            joint, parts = nnx.merge(graphdef, params, rest)(streams[0], streams[1:])
            found = [joint, *parts]
            return sum((x * weight).sum() for x, weight in zip(found, weights, strict=True)), found

        return jax.grad(total, has_aux=True)(params)

    gradients, found = ours(params)
    theirs = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), nnx.to_pure_dict(params))
    first, *others = (torch.tensor(x).swapaxes(1, 2) for x in streams)
    joint, parts = reference.temporal(theirs, first, others)
    expected = [x.swapaxes(1, 2) for x in (joint, *parts)]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other.detach().numpy())
    sum((x * torch.tensor(weight)).sum() for x, weight in zip(expected, weights)).backward()
    assert_close(nnx.to_pure_dict(gradients), jax.tree.map(lambda x: x.grad.numpy(), theirs), 1e-4)


@pytest.mark.parametrize(("stride", "positions"), [(1, [2, 4]), (2, [2, 5]), (4, [4, 9])])
def test_frames_that_stand_far_apart_are_pooled_less(stride, positions):
    """Positions are four frames of the film apart, as in `VideoEmbedding`, where CTC needs them."""
    video = embedding(stride)
    clips = PackedClips(jnp.array([0, 4]), jnp.array([4, 9]), jnp.array([True, True]))
    cues = video(jnp.ones((13, SIDE, SIDE, 3)), clips)
    assert cues.mask.sum(axis=1).tolist() == positions
    assert {stream.shape[:2] for stream in cues.streams} == {cues.mask.shape}
