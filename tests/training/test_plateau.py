"""The training loop with a model of one weight: plateau, moving average and seed."""

import json
import signal
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.stages import OptimConfig, TranslateConfig
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.checkpoints import Checkpointer, restore_params
from sslssaw_jax.training.loop import train
from sslssaw_jax.training.sharding import make_mesh
from sslssaw_jax.training.signals import Stopped, StopRequest
from tests.support.toy import toy_batch, toy_config

EPOCHS = 9
SCORES = dict(zip(range(2, 2 * EPOCHS + 1, 2), (1.0, 2.0, 2.0, 1.5, 3.0, 3.0, 2.0, 1.0, 1.0)))  # by step
OPTIM = OptimConfig(
    "sgd", "plateau", 0.25, final_learning_rate=0.02, factor=0.5, patience=0, weight_decay=0.0
)
STAGE = Stage("translate", lambda key: nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0)), lambda *_: None)


class Steps:
    """A substitute for an iterator of batches, two per epoch."""

    def __init__(self):
        self.step, self.batch = 0, toy_batch(0, clips=1)

    def __next__(self):
        self.step += 1
        return self.batch

    def get_state(self):
        return self.step

    def set_state(self, step):
        self.step = step


class StopAt(StopRequest):
    """A request to stop after some steps."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    def reached(self):
        self._left -= 1
        return not self._left

    def now(self, what=""):
        raise Stopped(signal.SIGTERM, what)


def trained(
    workdir, stop=None, selection=STAGE.selection, make_model=STAGE.make_model, seed=0, ema_decay=0.0
):
    """Train to the end, and return the weight that evaluation uses and the logged rates by step."""

    def loss(model, batch, key, counts):
        return jnp.square(model.kernel[...] - 3).sum(), {}

    config = toy_config(**{"logging.every_steps": 1, "seed": seed})
    steps = SimpleNamespace(
        num_batches=2 * EPOCHS,
        epoch_ends=np.array(list(SCORES)),
        clips=[SimpleNamespace(id="a")],
        iterator=Steps,
    )
    stage = Stage("translate", make_model, loss, selection=selection)
    state = train(
        stage,
        TranslateConfig(epochs=EPOCHS, optim=OPTIM, ema_decay=ema_decay),
        config,
        workdir=workdir,
        mesh=make_mesh(config.mesh),
        batches=steps,
        meta={},
        stop=stop or StopRequest(),
        evaluate=lambda state: {"bleu4": SCORES[int(state.step)]},
    )
    log = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in log if "lr" in row}
    return float(state.eval_params["kernel"][...][0, 0]), rates


@pytest.mark.slow
def test_a_resumed_plateau_ends_bit_equal_and_training_stops_below_the_final_rate(tmp_path):
    weight, rates = trained(tmp_path / "whole")
    per_epoch = [0.25, 0.25, 0.25, 0.125, 0.0625, 0.0625, 0.03125]  # then 0.0156, below the final rate
    assert rates == {step: per_epoch[(step - 1) // 2] for step in range(1, 15)}

    for stop in (4, 3, 2, 2):  # after an evaluation and between two
        with pytest.raises(Stopped):
            trained(tmp_path / "cut", StopAt(stop))
    assert trained(tmp_path / "cut") == (weight, rates)
    with Checkpointer(tmp_path / "cut/checkpoints") as checkpointer:
        assert checkpointer.scores == {step: {"bleu4": score} for step, score in SCORES.items() if step <= 14}


def test_a_plateau_of_a_stage_without_scores_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config.translate.optim.schedule='plateau' follows scores on dev"):
        trained(tmp_path, selection=None)


def test_evaluation_uses_the_moving_average_of_all_weights_so_far(tmp_path):
    found, rates = trained(tmp_path, ema_decay=0.5)
    weight = float(STAGE.make_model(None).kernel[...][0, 0])
    velocity = average = 0.0
    for step, rate in rates.items():
        velocity = 0.9 * velocity + 2 * (weight - 3)
        weight -= rate * velocity
        decay = min(0.5, (step - 1) / (step + 9))
        average = decay * average + (1 - decay) * weight
    assert found == pytest.approx(average, abs=1e-4)
    assert abs(average - weight) > 0.01


def test_the_seed_of_a_run_draws_its_first_weights(tmp_path):
    def make_model(key):
        return nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(key))

    weights = []
    for seed in (0, 1):
        with pytest.raises(Stopped):
            trained(tmp_path / str(seed), StopAt(1), make_model=make_model, seed=seed)
        weights.append(restore_params(tmp_path / str(seed) / "checkpoints")[0]["kernel"])
    assert weights[0] != weights[1]
