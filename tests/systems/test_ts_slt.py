"""TS-SLT: what the three heads learn from each other, and which points a stream reads."""

import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import to_config_dict
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.feature_writer import FeatureWriter
from sslssaw_jax.data.keypoints import COCO_WHOLEBODY
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.models.s3d import S3DConfig
from sslssaw_jax.models.two_stream import Streams
from sslssaw_jax.stages.distillation import distillation_loss, log_ensemble
from sslssaw_jax.stages.recognition import gloss_loss
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.stages.step import count_batch
from sslssaw_jax.stages.streams import CHANNELS, make_heat_maps, make_streams
from sslssaw_jax.systems import default_config, read_config
from sslssaw_jax.systems.ts_slt import HEADS, recognize_loss
from sslssaw_jax.training.sharding import shard_batch
from sslssaw_jax.types import FeatureSize
from tests.support.toy import (
    assert_close,
    evaluated,
    make_stages,
    sgd_step,
    toy_batch,
    toy_state,
    toy_system,
)
from tfds_builders.avatar import JOINTS


def logits(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(2, 5, 4)).astype(np.float32) for name in HEADS}


@pytest.mark.slow
def test_distillation_equals_pytorch_and_leaves_padding_out():
    reference = pytest.importorskip("tests.support.two_stream_reference")
    torch, found, lengths = reference.torch, logits(0), (5, 3)
    mask = np.arange(5) < np.array(lengths)[:, None]
    value, gradient = jax.value_and_grad(distillation_loss)(found, mask, 2)
    theirs = {name: torch.tensor(x, requires_grad=True) for name, x in found.items()}
    expected = sum(
        reference.distillation([x[row, :length] for x in theirs.values()])
        for row, length in enumerate(lengths)
    )
    (expected / 2).backward()
    assert_close(np.asarray(value), expected.detach().numpy() / 2)
    for name in HEADS:
        assert_close(np.asarray(gradient[name]), theirs[name].grad.numpy(), 1e-4)


def test_the_ensemble_is_the_mean_of_probabilities_and_like_heads_learn_nothing():
    found = logits(1)
    mean = np.mean([jax.nn.softmax(x) for x in found.values()], axis=0)
    np.testing.assert_allclose(np.exp(log_ensemble(found)), mean, rtol=1e-5)
    alike = dict.fromkeys(HEADS, jnp.asarray(found["joint"]))
    assert abs(float(distillation_loss(alike, np.ones((2, 5), bool), 2))) < 1e-5


def test_feature_sets_of_two_strides_are_not_joined():
    config = toy_system("ts_slt", **{"data.features": ("s3d", "poses")})
    inputs = StageInputs(features=[FeatureSize(8, 4, 16), FeatureSize(6, 1, 1)])
    with pytest.raises(ConfigError, match=r"sets with the strides \[4, 1\]; .* name sets of the same stride"):
        make_streams(config, inputs, jnp.float32, nnx.Rngs(0))


def test_streams_read_the_published_points_in_order_or_those_that_a_set_has():
    config = toy_system("ts_slt")
    assert len(CHANNELS) == 79 and CHANNELS[:2] == ("face_0", "face_3") and CHANNELS[-11] == "nose"
    all_maps = make_heat_maps(config, StageInputs(keypoints=COCO_WHOLEBODY))
    expected = [*range(23, 69, 3), *range(91, 133), *range(71, 90, 2), *range(11)]
    assert list(all_maps.columns) == expected
    drawn = make_heat_maps(config, StageInputs(keypoints=JOINTS))
    assert sorted(drawn.columns) == list(range(len(JOINTS))) and drawn.side == config.data.image_size // 2
    assert drawn.sigma == (8 / 260, 8 / 210)
    with pytest.raises(ConfigError, match=r"a set without any of the points that .* reads: right_elbow"):
        make_heat_maps(config, StageInputs(keypoints=("mesh_0",)))


def test_each_level_of_a_pyramid_has_the_weight_of_its_stream():
    """By a model whose heads on the levels repeat what they read."""
    weights = {"model.video_level_weight": 0.2, "model.keypoint_level_weight": 0.5}
    config, batch = toy_system("ts_slt", **weights), toy_batch(0)
    rng, levels = np.random.default_rng(0), np.ones((3, 6), bool)
    counts = count_batch(batch)
    of_video, of_keypoints = rng.normal(size=(2, 2, 3, 6, 6)).astype(np.float32)
    heads = {name: rng.normal(size=(3, 4, 6)).astype(np.float32) for name in HEADS}
    streams = Streams(None, None, np.ones((3, 4), bool), of_video, of_keypoints, levels)
    model = SimpleNamespace(
        read=lambda *_: (heads, None, streams),
        level_heads=[lambda level, mask, rngs: (level, None)] * 4,
    )
    total, parts = recognize_loss(model, batch, None, counts, config=config)
    video, keypoints = (
        sum(gloss_loss(level, levels, batch, counts)[0] for level in each)
        for each in (of_video, of_keypoints)
    )
    assert abs(video - keypoints) > 0.01
    rest = 3 * parts["loss_gloss"] + parts["loss_distill"]
    assert_close(total, rest + np.float32(0.2) * video + np.float32(0.5) * keypoints)


def test_published_sizes_are_those_of_the_public_code():
    assert S3DConfig().block_channels == (64, 192, 480, 832)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.image_size": 49, "data.keypoints": "a"}, "image_size is 49; heat maps have half that size"),
        ({"model.raster": (1, 2, 3), "data.keypoints": "a"}, "it must be a height and a width"),
        ({}, "keypoints is None; the system 'ts_slt' reads keypoints in addition to frames: name"),
        ({"data.features": ("one",)}, "the system 'ts_slt' reads is 2: name"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    tree = default_config("ts_slt")
    tree.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        read_config(tree)


@pytest.mark.slow
def test_a_recogniser_reads_the_keypoints_that_a_run_loads(tiny_data_dir, tmp_path):
    """Trace without compiling."""
    shutil.copytree(tiny_data_dir, tmp_path / "data")
    rng = np.random.default_rng(0)
    dataset = find_dataset(tmp_path / "data", "avatar_qa")
    with FeatureWriter(dataset, "points", source="a test", points=("nose", "left_wrist")) as writer:
        for split, clips in writer.clips.items():
            for clip in clips.values():
                writer.add(split, clip, rng.random((clip.num_frames, 6)).astype(np.float16))
        writer.finish()
    tree = to_config_dict(toy_system("ts_slt", **{"model.visual": "cnn"}))
    tree.data.update({"data_dir": str(tmp_path / "data"), "keypoints": "points"})
    tree.data.update({"max_frames": 32, "num_threads": 1, "max_glosses": 4})
    tree.stage = "recognize"
    tree.recognize.update({"epochs": 1, "clips_per_batch": 8, "frame_budget": 160})
    run = Experiment(read_config(tree), tmp_path / "run")
    (stage,) = run._stages
    state, batch = toy_state(stage), shard_batch(next(run._train_batches(0).iterator()), run._mesh)
    assert batch.keypoints.values.shape == (160, 6) and np.asarray(batch.keypoints.values).any()
    _, metrics = jax.eval_shape(sgd_step(stage), state, batch)
    assert metrics["loss_gloss"].shape == ()
    jax.eval_shape(stage.recognition, evaluated(stage, state), batch)


def test_each_writer_has_a_place_for_all_that_gloss2text_learned():
    *_, gloss2text, translate = make_stages(toy_system("ts_slt", **{"model.mapper": "embedding"}))
    learned, places = (stage.abstract_state().params for stage in (gloss2text, translate))

    def shapes(params, path):
        for name in path.split("."):
            params = params[name]
        return [leaf.shape for leaf in jax.tree.leaves(params)]

    assert len(translate.modules) == 3 * 5
    for place, source in translate.modules.items():
        assert shapes(places, place) == shapes(learned, source) != [], place
