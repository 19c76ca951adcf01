"""Heat maps equal their formula, and the links of the streams equal PyTorch's on each clip alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.s3d import Masks, S3DConfig
from sslssaw_jax.models.two_stream import FeatureStreams, HeatMaps, Lateral, Pyramid, TwoStreamS3D
from sslssaw_jax.types import Features, FeatureSize, PackedClips
from tests.support.toy import assert_close, jit, random_model

LENGTH = np.array([8, 4])  # of 8 frames
CHANNELS = (0, 2, 3, 4)


def test_a_heat_map_is_a_spot_at_its_point_and_empty_without_one():
    side, sigma = 6, (0.1, 0.2)
    points = np.array([[(0.3, 0.8, 0.9), (0.5, 0.5, 0.0), (0.9, 0.1, 0.2)]], np.float32)
    heat = HeatMaps((2, 0, 1), side, sigma)(jnp.asarray(points))
    assert heat.shape == (1, side, side, 3)
    for row in range(side):
        for column in range(side):
            y, x = (row + 0.5) / side, (column + 0.5) / side
            for channel, (px, py, _) in ((0, points[0, 2]), (1, points[0, 0])):
                squared = ((y - py) / sigma[0]) ** 2 + ((x - px) / sigma[1]) ** 2
                expected = (np.exp(-squared / 2) - 0.5) / 0.5
                np.testing.assert_allclose(heat[0, row, column, channel], expected, atol=1e-5)
    assert (heat[..., 2] == -1).all()


def test_each_feature_set_of_a_clip_is_read_at_its_own_place():
    """Give the first of two clips more rows in one set than in the other."""
    sizes = [FeatureSize(1, 4, 4), FeatureSize(1, 4, 4)]
    streams = FeatureStreams(CNNConfig(), sizes, max_frames=12, rngs=Keys(0))

    def rows(*counts):
        count = np.array(counts, np.int32)
        values = jnp.concatenate([10 * clip + jnp.arange(n) for clip, n in enumerate(counts)])
        return Features(jnp.pad(values, (0, 2))[:, None].astype(jnp.float16), np.cumsum(count) - count, count)

    found = streams(rows(2, 3), rows(3, 2), np.ones(2, bool))
    np.testing.assert_array_equal(found.mask.sum(axis=1), [2, 2])
    for stream in (found.video, found.keypoints):
        np.testing.assert_array_equal(stream[..., 0][found.mask], [0, 1, 10, 11])


def drawn(seed, *sizes):
    """Maps of two clips, zero after the second."""
    rng = np.random.default_rng(seed)
    found = []
    for times, side, channels in sizes:
        inside = (np.arange(times) < LENGTH[:, None] * times // 8)[..., None, None, None]
        maps = rng.normal(size=(2, times, side, side, channels)).astype(np.float32)
        found.append(np.where(inside, maps, 0))
    return found


def in_evaluation(model):
    return nnx.view(model, use_running_average=True, raise_if_not_found=False)


def assert_equal_to_pytorch(ours, theirs, inputs, call, call_theirs):
    """Compare outputs, and gradients by weights and inputs, with torch's on each clip alone."""
    reference = pytest.importorskip("tests.support.two_stream_reference")
    torch = reference.torch
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(ours)))
    reference.load(theirs.eval(), flat)
    graphdef, params, rest = nnx.split(in_evaluation(ours), nnx.Param, ...)

    def objective(params, inputs):
        outputs = call(nnx.merge(graphdef, params, rest), *inputs)
        return sum(jnp.sin(output).sum() for output in outputs), outputs

    (of_params, of_inputs), outputs = jit(jax.grad(objective, argnums=(0, 1), has_aux=True))(params, inputs)
    for clip, length in enumerate(LENGTH):
        parts = [
            torch.tensor(each[clip : clip + 1, : length * each.shape[1] // 8].transpose(0, 4, 1, 2, 3).copy())
            for each in inputs
        ]
        for part in parts:
            part.requires_grad_()
        expected = call_theirs(theirs, *parts)
        sum(each.sin().sum() for each in expected).backward()
        for output, their_output in zip(outputs, expected, strict=True):
            found = np.moveaxis(np.asarray(output[clip]), -1, 0)
            known = their_output[0].detach().numpy()
            assert_close(found[:, : known.shape[1]], known)
            assert not found[:, known.shape[1] :].any()
        for gradient, part in zip(of_inputs, parts, strict=True):
            known = part.grad[0].numpy()
            assert_close(np.moveaxis(np.asarray(gradient[clip]), -1, 0)[:, : known.shape[1]], known, 1e-4)
    of_params = traverse_util.flatten_dict(nnx.to_pure_dict(of_params))
    for path, known in reference.gradients(theirs, of_params).items():
        assert_close(np.asarray(of_params[path]), known, 1e-4)


def test_lateral_connections_and_their_gradients_equal_pytorch():
    reference = pytest.importorskip("tests.support.two_stream_reference")
    ours = random_model(lambda: Lateral(3, dtype=jnp.float32, rngs=Keys(0)))
    mask = Masks.of(LENGTH, 8).whole

    def call(model, video, keypoints):
        return model(video, keypoints, mask)

    inputs = drawn(0, (8, 6, 3), (8, 3, 3))
    assert_equal_to_pytorch(ours, reference.Lateral(3), inputs, call, lambda theirs, *maps: theirs(*maps))


@pytest.mark.slow
def test_a_pyramid_and_its_gradient_equal_pytorch():
    reference = pytest.importorskip("tests.support.two_stream_reference")
    ours = random_model(lambda: Pyramid(CHANNELS, momentum=0.9, dtype=jnp.float32, rngs=Keys(0)))
    masks = Masks.of(2 * LENGTH, 16)

    def call(model, *maps):
        return model((None, *maps), masks)

    inputs = drawn(1, (8, 8, 2), (8, 4, 3), (4, 2, 4))
    assert_equal_to_pytorch(
        ours, reference.Pyramid(*CHANNELS[1:]), inputs, call, lambda theirs, *maps: theirs(*maps)
    )


@pytest.mark.slow
def test_both_streams_of_a_packed_clip_equal_those_of_the_clip_alone():
    """The sides are odd where maps shrink, and there is noise after a clip."""
    heat_maps = HeatMaps((0, 1), 24, (0.05, 0.05))
    config = S3DConfig(width=1 / 32)
    model = random_model(
        lambda: TwoStreamS3D(config, heat_maps, max_frames=8, dtype=jnp.float32, rngs=Keys(0))
    )
    rng = np.random.default_rng(3)
    frames = rng.normal(size=(14, 48, 48, 3)).astype(np.float32)
    points = rng.random((14, 2, 3)).astype(np.float32)
    count, valid = np.array([5, 3, 0]), np.array([True, True, False])
    read = jit(lambda model, *batch: nnx.view(model, use_running_average=True)(*batch))
    packed = read(model, frames, points, None, PackedClips(np.array([0, 5, 14]), count, valid))
    np.testing.assert_array_equal(packed.mask.sum(axis=1), [2, 1, 0])
    np.testing.assert_array_equal(packed.level_mask.sum(axis=1), [4, 2, 0])
    noise = [rng.normal(size=each.shape).astype(np.float32) for each in (frames, points)]
    for row, start in ((0, 0), (1, 5)):
        whole = [np.concatenate([each[start:], other])[:14] for each, other in zip((frames, points), noise)]
        clip = PackedClips(
            np.array([0, 14, 14]), np.array([count[row], 0, 0]), np.array([True, False, False])
        )
        alone = read(model, *whole, None, clip)
        for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(packed), strict=True):
            assert_close(np.asarray(one[0], float), np.asarray(other[row], float))
    assert np.abs(packed.keypoints[0, 0]).max() > 0 and len(packed.video_levels) == 2
