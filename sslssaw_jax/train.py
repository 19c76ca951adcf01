"""The training loop, the same for every stage: it knows no model, and a stage knows no loop."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from sslssaw_jax.checkpointing import Checkpointer, CheckpointError
from sslssaw_jax.config import Config, StageConfig, differences
from sslssaw_jax.data.pipeline import Batches
from sslssaw_jax.logs import RunLog
from sslssaw_jax.optim import make_optimizer
from sslssaw_jax.sharding import abstract_state, replicated, shard_batch
from sslssaw_jax.stages.step import Stage, train_step
from sslssaw_jax.types import Batch, Metrics, TrainState

CHECKPOINTS = "checkpoints"
SCORE = "bleu4"  # of an evaluation: the best checkpoint has the highest
_FREE_DATA_KEYS = {
    "data_dir",
    "tokenizer",
    "num_threads",
    "prefetch",
    "cache",
    "cache_dir",
    "dev_split",
    "test_split",
}
_STAGE_2_MODEL_KEYS = {"fusion", "inputs", "ssl"}

Evaluate = Callable[[TrainState], Mapping[str, float]]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


def train(
    stage: Stage,
    stage_config: StageConfig,
    config: Config,
    *,
    workdir: Path,
    mesh: Mesh,
    batches: Batches,
    meta: dict[str, Any],
    start: Callable[[TrainState], TrainState] | None = None,
    evaluate: Evaluate | None = None,
) -> TrainState:
    """Trains a stage to its end, going on from the latest checkpoint in `workdir` where there is one.

    Args:
        stage: the model and its loss.
        stage_config: epochs, optimiser, and how often to evaluate.
        config: the run's configuration: seed, logging, checkpoints.
        workdir: gets `log.jsonl`, `tensorboard/` and `checkpoints/`.
        mesh: the devices.
        batches: all batches of the stage; their number is that of the steps.
        meta: kept in each checkpoint (configuration, tokenizer).
        start: puts parameters from elsewhere into the fresh state.
        evaluate: scores on dev; those of the best checkpoint have the highest BLEU-4.

    Returns:
        The state after the last step.

    Raises:
        CheckpointError: the workdir holds a checkpoint of another model or another configuration.
        TrainingError: the loss is no longer finite.
    """
    optimizer, schedule = make_optimizer(stage_config.optim, batches.num_batches)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    template = abstract_state(partial(stage.init, optimizer=optimizer), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    step_fn = jax.jit(
        partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    with Checkpointer(
        workdir / CHECKPOINTS,
        keep_latest=config.checkpoint.keep_latest,
        keep_best=config.checkpoint.keep_best,
    ) as checkpointer:
        restored = checkpointer.restore(template)
        iterator = batches.iterator()
        if restored:
            state, data_position, saved_meta = restored
            if changed := run_differences(saved_meta, meta, stage.name):
                raise CheckpointError(
                    f"{workdir} holds a run of another configuration; go on with that one, or choose another "
                    "--workdir:\n  " + "\n  ".join(changed)
                )
            iterator.set_state(data_position)
        else:
            # not under jit: compiling all the random draws takes longer than making them
            state = jax.device_put(stage.init(init_key, optimizer), shardings)
            state = start(state) if start else state
        first_step = int(state.step)
        save = partial(checkpointer.save, meta=meta)
        epochs = _evaluated_steps(batches.plan.epoch_ends, stage_config.eval_every)
        with RunLog(workdir, stage.name, num_steps=batches.num_batches, start_step=first_step) as log:
            if restored:
                log.say(f"{stage.name}: going on from step {first_step:,} in {workdir}")
            log_last_step: Callable[[], None] | None = None
            for step in range(first_step + 1, batches.num_batches + 1):
                asked = time.perf_counter()
                batch = next(iterator)
                waited = time.perf_counter() - asked
                state, metrics = step_fn(state, shard_batch(batch, mesh), run_key)
                if log_last_step:  # one step late, so that the device never waits for the host
                    log_last_step()
                log_last_step = partial(
                    _log_step, log, step, batch, metrics, schedule, waited, step % config.log_every == 0
                )
                ends_epoch = step in epochs
                if not ends_epoch and step % config.checkpoint.every_steps:
                    continue
                log_last_step()
                log_last_step = None
                scores = dict(evaluate(state)) if ends_epoch and evaluate else {}
                if scores:
                    log.scalars(step, {f"dev/{key}": value for key, value in scores.items()})
                    shown = "  ".join(f"{key} {value:.2f}" for key, value in scores.items())
                    log.say(f"{stage.name} {step:,}: dev {shown}")
                save(state, data=iterator.get_state(), metric=scores.get(SCORE))
                log.restart_clock()
        checkpointer.wait()
    return state


def run_differences(saved: dict[str, Any], meta: dict[str, Any], stage: str) -> list[str]:
    """In what two runs of a stage differ that decides its parameters: model, stage, data, tokenizer, seed.

    Args:
        saved, meta: the notes kept with each run, `{"config": ..., "tokenizer": ...}`.
        stage: its name; what of the model only stage 2 has is no matter to the stages before.
    """

    def decisive(notes: dict[str, Any]) -> dict[str, Any]:
        config = notes["config"]
        ignored = set() if stage == "translate" else _STAGE_2_MODEL_KEYS
        return {
            "seed": config["seed"],
            "data": {key: value for key, value in config["data"].items() if key not in _FREE_DATA_KEYS},
            "model": {key: value for key, value in config["model"].items() if key not in ignored},
            stage: config[stage],
            "tokenizer": notes["tokenizer"],
        }

    return differences(decisive(saved), decisive(meta))


def _evaluated_steps(epoch_ends: np.ndarray, eval_every: int) -> set[int]:
    """The last step of every `eval_every`-th epoch, and of the last."""
    ends = epoch_ends.tolist()
    return {*ends[eval_every - 1 :: eval_every], *ends[-1:]}


def _log_step(
    log: RunLog,
    step: int,
    batch: Batch,
    metrics: Metrics,
    schedule: optax.Schedule,
    waited: float,
    write: bool,
) -> None:
    values = {key: float(value) for key, value in jax.device_get(metrics).items()}
    if not np.isfinite(values["loss"]):
        raise TrainingError(
            f"the loss is {values['loss']} at step {step:,}; the latest checkpoint is from before: "
            "lower the learning rate or set optim.clip_norm, and start again to go on from it"
        )
    log.count(clips=int(batch.valid.sum()), frames=int(batch.frame_count.sum()), waited=waited)
    if write:
        log.write(step, values | {"lr": float(schedule(step - 1))})
