"""STMC-T learns points from keypoints, and its translation starts from its recogniser."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.keypoints import BODY
from sslssaw_jax.models.multi_cue import POINTS
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.systems import SYSTEMS
from sslssaw_jax.systems.stmc_t import pose_loss
from sslssaw_jax.types import Features
from tests.support.toy import (
    TOY_GLOSSES,
    VOCAB_SIZE,
    assert_close,
    jit,
    loss_of,
    make_stages,
    padded,
    toy_batch,
    toy_system,
)

WITH_KEYPOINTS = {"model.pose_weight": 30.0, "data.keypoints": "avatar"}


def recognizer(points=BODY, **changes):
    config = toy_system("stmc_t", **WITH_KEYPOINTS | changes)
    inputs = StageInputs(VOCAB_SIZE, keypoints=points, glosses=lambda: TOY_GLOSSES)
    return SYSTEMS["stmc_t"].make_stages(config, inputs)[0]


def with_keypoints(batch):
    """Every clip has its own places, on the left of the frame."""
    rows = np.random.default_rng(3).uniform(0.05, 0.45, (len(batch.frames), len(BODY), 3))
    rows[..., 2] = 1
    rows = rows.reshape(len(rows), -1).astype(np.float16)
    return batch.replace(keypoints=Features(rows, batch.frame_start, batch.frame_count))


def test_the_loss_of_points_is_a_mean_over_frames_of_clips_and_over_points_that_were_found():
    points = jnp.full((3, len(POINTS), 2), 0.5)
    wanted = np.full((3, len(POINTS), 3), 0.5, np.float32)
    wanted[..., 2] = 1
    wanted[0, 0, 0], wanted[1, 3, 1] = 0.7, 0.1
    wanted[0, 1] = 0.9, 0.9, 0  # not found
    wanted[1, 2, :2] = 1.4, 0.5  # outside
    wanted[2] = 0  # a frame of no clip
    expected = (0.2**2 + 0.4**2) / 2 / (2 * len(POINTS)) / 2
    assert_close(pose_loss(points, wanted, np.array([True, True, False]), 2), expected)


@pytest.mark.slow
def test_the_recogniser_s_loss_has_three_parts_and_frames_of_no_clip_change_none():
    stage, batch = recognizer(), padded(toy_batch(1), rows=1, frames=4)
    batch, inside = with_keypoints(batch), np.arange(len(batch.frames)) < batch.frame_count.sum()
    loud = batch.replace(
        frames=np.where(inside[:, None, None, None], batch.frames, 255 - batch.frames),
        keypoints=batch.keypoints.replace(values=np.where(inside[:, None], batch.keypoints.values, 0.9)),
    )
    model, loss = stage.make_model(jax.random.key(0)), jit(partial(loss_of, stage))
    found, same = (jax.device_get(loss(model, each)) for each in (batch, loud))
    assert_close(same, found)
    total, parts = found
    assert min(parts[name] for name in ("loss_gloss", "loss_parts", "loss_pose")) > 0
    assert_close(total, parts["loss_gloss"] + 0.6 * parts["loss_parts"] + 30 * parts["loss_pose"])


def test_the_translation_goes_on_from_video_and_heads_of_the_recogniser():
    stages = {stage.name: stage for stage in make_stages(toy_system("stmc_t", **{"warm_start.epochs": 1}))}
    assert list(stages) == ["warm_start", "recognize", "translate"]
    assert stages["recognize"].modules == {"video.cnn": "cnn"}
    assert stages["translate"].modules == {"video": "video", "heads": "heads"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.pose_weight": 30.0},
            r"keypoints is None and .*pose_weight 30\.0: .* --config\.model\.pose_weight=0",
        ),
        ({"model.cnn.kind": "resnet"}, "maps of a VGG: set it to 'vgg'"),
        ({"model.cues.hand_side": 9}, "hand_side is 9; the map of frames of 32 pixels is 8 wide: lower"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_stages(toy_system("stmc_t", **changes))


def test_a_keypoint_set_without_a_point_is_refused_by_the_point_s_name():
    with pytest.raises(ConfigError, match="has no left_wrist, right_wrist"):
        recognizer(points=BODY[:9])
