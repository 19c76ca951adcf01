"""S3D computes what PyTorch computes, and a clip's features depend on neither padding nor other clips."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.s3d import S3D, S3DConfig, S3DEmbedding, rounded_up
from sslssaw_jax.types import PIXEL_MEAN, PIXEL_STD, PackedClips
from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.weights.s3d import pretrained_s3d, published_name
from sslssaw_jax.weights.torch_layout import from_torch
from tests.support.pretrained import load_part, state_of
from tests.support.pytorch import torch
from tests.support.resnet_reference import BiasedVariances, randomise_torch
from tests.support.s3d_reference import TorchS3D, public_weights
from tests.support.toy import assert_close, jit, trained

CONFIG = S3DConfig(width=1 / 32, momentum=0.9)
FRAMES, SIDE = 12, 32
LENGTH = np.array([8, 8, 4])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Torch's model, and ours with its weights from a file like the one that kylemin/S3D publishes."""
    theirs = TorchS3D(CONFIG)
    randomise_torch(theirs, seed=0)
    file = tmp_path_factory.mktemp("s3d") / "S3D_kinetics400.pt"
    torch.save(public_weights(theirs), file)
    config = S3DConfig(CONFIG.width, CONFIG.momentum, str(file))
    return theirs, imported(config), config


def imported(config, dtype=jnp.float32):
    video = nnx.eval_shape(lambda: embedding(config, dtype))
    video = load_part(video, "video", pretrained_s3d(config))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), video).s3d


def embedding(config=CONFIG, dtype=jnp.float32):
    return S3DEmbedding(config, max_frames=FRAMES, dtype=dtype, rngs=Keys(0))


@pytest.fixture
def short_pair(pair):
    """Both without the last four blocks, whose gradients take long to compile, in float64."""
    with jax.enable_x64(True):
        theirs, ours = copy.deepcopy(pair[0]).double(), imported(pair[2], jnp.float64)
        theirs.base = theirs.base[:9]
        ours.inceptions = nnx.List(ours.inceptions[:3])
        ours.features = ours.inceptions[-1].outputs
        yield theirs, ours


def random_clips(seed, clips=3):
    return np.random.default_rng(seed).normal(size=(clips, FRAMES, SIDE, SIDE, 3)).astype(np.float32)


@jit
def evaluated(model, clips, length):
    return nnx.view(model, use_running_average=True)(clips, length)


def as_ours(values, like):
    """Convert PyTorch's weights or gradients by name to the state of our S3D."""

    def ours(path, leaf):
        keys = tuple(getattr(key, "key", getattr(key, "name", None)) for key in path)
        keys = tuple(key for key in keys if key != "value")
        return jnp.asarray(from_torch(keys, values[published_name(keys)].detach().numpy()))

    return jax.tree.map_with_path(ours, like)


def test_evaluation_of_clips_of_any_length_equals_torch_on_each_alone(pair):
    theirs, ours, _ = pair
    clips = random_clips(0)
    found = evaluated(ours, clips, LENGTH)
    with torch.no_grad():
        for row, length in enumerate(LENGTH):
            expected = theirs.eval()(torch.tensor(clips[row : row + 1, :length]))[0].numpy()
            assert_close(found[row, : length // 4], expected)
            assert not found[row, length // 4 :].any()


@pytest.mark.slow
def test_training_equals_torch(short_pair):
    theirs, ours = short_pair
    clips = random_clips(1)
    cotangent = np.random.default_rng(2).normal(size=(3, FRAMES // 4, ours.features)).astype(np.float32)
    theirs.train()
    variances = BiasedVariances(theirs)
    expected = theirs(torch.tensor(clips[:2, :8]).double())
    (expected * torch.tensor(cotangent[:2, :2])).sum().backward()
    # the third row holds no clip
    cotangent[:, 2:] = 0
    features, stats, gradients = trained(ours, (clips, np.array([8, 8, 0])), cotangent)
    assert_close(features[:2, :2], expected.detach().numpy())
    assert_close(stats, as_ours(variances.state_dict(), stats))
    their_gradients = {name: value.grad for name, value in theirs.named_parameters()}
    assert_close(gradients, as_ours(their_gradients, gradients), 1e-4)


def test_a_packed_clip_is_read_from_its_place_in_blue_green_red_and_its_last_frame_repeats():
    video, seen = nnx.eval_shape(embedding), []

    def s3d(clips, length):
        seen.append((clips, length))
        return clips[:, ::4].mean(axis=(2, 3))

    video.s3d = s3d
    pixels = np.random.default_rng(5).uniform(-1, 1, (11, 2, 2, 3)).astype(np.float32)
    frames = (pixels / 2 + 0.5 - PIXEL_MEAN) / np.array(PIXEL_STD)  # as every video part gets them
    start, valid = np.array([0, 5, 11]), np.array([True, True, False])
    left_out = np.zeros((3, 2), np.int32)
    for count, first, length in ((5, [0, 1, 2, 3, 4, 4, 4, 4], 8), (3, [0, 3, 4, 4], 4)):
        _, mask = video(frames, None, PackedClips(start, np.array([count, 6, 0]), valid, left_out))
        np.testing.assert_array_equal(mask.sum(axis=1), [length // 4, 2, 0])
        clips, lengths = seen.pop()
        np.testing.assert_array_equal(lengths, [length, 8, 0])
        for clip, rows in zip(clips, (first, [5, 6, 7, 8, 9, 10, 10, 10], [])):
            np.testing.assert_allclose(clip[: len(rows)], pixels[rows, ..., ::-1], atol=1e-6)
            assert not clip[len(rows) :].any()
        left_out[0] = 1, 2


def test_a_checkpoint_of_slrt_has_the_same_weights(pair, tmp_path):
    theirs, ours, _ = pair
    file = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 3, "state_dict": public_weights(theirs, "backbone.")}, file)
    again = imported(S3DConfig(CONFIG.width, CONFIG.momentum, str(file)))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(ours))


def test_a_stream_of_other_inputs_takes_all_but_the_first_convolution(pair):
    theirs, _, config = pair
    stream = nnx.eval_shape(lambda: S3D(config, inputs=5, dtype=jnp.float32, rngs=Keys(1)))
    weights = pretrained_s3d(config, "keypoint_s3d", first=False)
    ours = load_part(nnx.Dict(keypoint_s3d=stream), "video", weights).keypoint_s3d
    theirs = theirs.state_dict()
    kernel = ours.stem.space.conv.kernel.get_value()
    assert isinstance(kernel, jax.ShapeDtypeStruct), "stays as it was"
    expected = from_torch(("stem", "time", "conv", "kernel"), theirs["base.0.conv_t.weight"].numpy())
    np.testing.assert_array_equal(ours.stem.time.conv.kernel, expected)


def test_a_file_that_does_not_fit_is_refused_by_name(pair, tmp_path):
    theirs = pair[0]
    weights = public_weights(theirs)
    del weights["module.base.8.branch1.1.conv_t.weight"]
    weights["module.base.3.bn_s.bias"] = torch.zeros(9)
    torch.save(weights, tmp_path / "S3D.pt")
    state = state_of(nnx.eval_shape(lambda: nnx.Dict(video=embedding())))
    with pytest.raises(WeightsError) as found:
        pretrained_s3d(S3DConfig(CONFIG.width, weights=str(tmp_path / "S3D.pt")))(state)
    assert "base.8.branch1.1.conv_t.weight: missing in the file" in str(found.value)
    assert "base.3.bn_s.bias: (9,) in the file, (6,) in the model" in str(found.value)
    with pytest.raises(WeightsError, match=r"config.model.s3d.weights: there is no \./none.*kylemin/S3D"):
        pretrained_s3d(S3DConfig(weights="./none"))


def test_published_sizes_give_832_features():
    assert S3DConfig().features == 832
    assert [rounded_up(n) for n in (1, 4, 5)] == [4, 4, 8]
