"""The warm start, whose CNN learns the sign of each frame."""

import jax
import numpy as np

from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.stages.warm_start import warm_start_stages
from tests.support.toy import assert_close, evaluated, jit, loss_of, padded, toy_batch, toy_config, toy_state


def test_each_frame_has_the_sign_of_its_clip() -> None:
    signs = ("RAIN", "SNOW", "RAIN", "HERE", "NORTH")
    clips = [ClipInfo(str(place), 1, "", "", sign, "") for place, sign in enumerate(signs)]
    config = toy_config(**{"warm_start.epochs": 1})
    (stage,) = warm_start_stages(config, StageInputs(clips=lambda split: clips))
    model, batch = evaluated(stage, toy_state(stage)), toy_batch(0)
    batch = batch.replace(index=np.array([4, 0, 3], np.int32))

    @jit
    def loss_and_logits(model, batch):
        return loss_of(stage, model, batch), model(*prepare_frames(batch, config.data, None))

    (loss, metrics), logits = loss_and_logits(model, padded(batch, rows=1, frames=4))
    ids = {sign: number for number, sign in enumerate(sorted(set(signs)))}
    labels = np.repeat([ids[signs[index]] for index in batch.index], batch.frame_count)
    log_probs = np.asarray(jax.nn.log_softmax(logits))[: len(labels)]
    assert_close(loss, -log_probs[np.arange(len(labels)), labels].mean())
    assert_close(metrics["accuracy"], (log_probs.argmax(axis=1) == labels).mean(dtype=np.float32))
