"""The training loop, the same for every stage: it knows no model, and a stage knows no loop."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sslssaw_jax.config.experiment import Config, run_differences
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.batches import Batches
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.training.checkpoints import Checkpointer, CheckpointError
from sslssaw_jax.training.faults import TrainingError, all_finite, require_finite
from sslssaw_jax.training.optimizer import make_optimizer
from sslssaw_jax.training.profiling import CountedStep, Trace, peak_flops
from sslssaw_jax.training.run_log import RunLog
from sslssaw_jax.training.sharding import abstract_state, replicated, shard_batch
from sslssaw_jax.training.signals import StopRequest
from sslssaw_jax.types import BLEU_4, Batch, Metrics, SelectionMetric, TrainState
from sslssaw_jax.workdir import CHECKPOINTS, PROFILE, Scores

Evaluate = Callable[[TrainState], Mapping[str, float]]


def train(
    stage: Stage,
    stage_config: StageConfig,
    config: Config,
    *,
    workdir: Path,
    mesh: Mesh,
    batches: Batches,
    meta: dict[str, Any],
    stop: StopRequest,
    start: Callable[[TrainState], TrainState] | None = None,
    evaluate: Evaluate | None = None,
    selection: SelectionMetric = BLEU_4,
) -> TrainState:
    """Trains a stage to its end, going on from the latest checkpoint in `workdir` where there is one.

    A state is saved before it is evaluated, and its scores beside it after that: wherever the process is
    killed, the next one does again what was not written down, and ends with the same numbers.

    Args:
        stage: the model and its loss.
        stage_config: epochs, optimiser, and how often to evaluate.
        config: the run's configuration: seed, logging, checkpoints.
        workdir: gets `log.jsonl`, `tensorboard/`, `checkpoints/` and `profile/`.
        mesh: the devices.
        batches: all batches of the stage; their number is that of the steps.
        meta: kept in each checkpoint (configuration, tokenizer).
        stop: asked after each step.
        start: puts parameters from elsewhere into the fresh state.
        evaluate: scores on dev.
        selection: by which of these scores the best checkpoint is chosen, and patience lost.

    Returns:
        The state after the last step.

    Raises:
        CheckpointError: the workdir holds a checkpoint of another model or another configuration, or only
            damaged ones; or a checkpoint cannot be written.
        TrainingError: a loss or gradient is no longer finite, or too many clips are broken.
        Stopped: `stop` was asked for; the state is saved.
    """
    optimizer, schedule = make_optimizer(stage_config.optim, batches.num_batches)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    # not device_put, which puts no key on devices of other processes
    run_key = jax.jit(lambda key: key, out_shardings=replicated(mesh))(run_key)
    init = partial(stage.init, optimizer=optimizer, averaged=stage_config.ema_decay > 0)
    template = abstract_state(init, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    step_fn = CountedStep(
        jax.jit(
            partial(
                train_step,
                graphdef=stage.train_def,
                loss=stage.loss,
                optimizer=optimizer,
                ema_decay=stage_config.ema_decay,
            ),
            donate_argnums=0,
            out_shardings=(shardings, replicated(mesh)),
        )
    )

    def same_run(saved_meta: dict[str, Any]) -> None:
        if changed := run_differences(config, saved_meta, meta, stage.name):
            raise CheckpointError(
                f"{workdir} holds a run of another configuration; go on with that one, or choose another "
                "--workdir:\n  " + "\n  ".join(changed)
            )

    with Checkpointer(
        workdir / CHECKPOINTS,
        keep_latest=config.checkpoint.keep_latest,
        keep_best=config.checkpoint.keep_best,
        selection=selection,
    ) as checkpointer:
        restored = checkpointer.restore(template, same_run)
        iterator = batches.iterator()
        broken: set[int] = set()  # clips that were skipped
        if restored:
            state, position, _ = restored
            iterator.set_state(position["iterator"])
            broken.update(position["broken"])
        else:
            # not under jit: compiling all the random draws takes longer than making them
            state = jax.device_put(init(init_key), shardings)
            state = start(state) if start else state
        step = int(state.step)
        evaluated = _evaluated_steps(batches.epoch_ends, stage_config.eval_every)
        log = RunLog(
            workdir,
            stage.name,
            num_steps=batches.num_batches,
            start_step=step,
            peak_flops=peak_flops(config.logging.peak_tflops),
        )
        trace = Trace(config.logging.profiled_steps, workdir / PROFILE)

        def tell(step: int, batch: Batch, metrics: Metrics, waited: float) -> None:
            values = {key: float(value) for key, value in jax.device_get(metrics).items()}
            watched = {key: values[key] for key in ("loss", "grad_norm")}
            require_finite(step, watched, batch, batches.clips, workdir)
            flops = step_fn.flops * stage_config.accumulate  # a loop is counted once
            clips, frames = int(batch.valid.sum()), int(batch.frame_count.sum())
            log.count(clips=clips, frames=frames, waited=waited, flops=flops)
            if step % config.logging.every_steps == 0:
                log.write(step, values | {"lr": float(schedule(step - 1))})

        with log, trace, stop.deferred():
            if restored:
                log.say(f"{stage.name}: going on from step {step:,} in {workdir}")
            untold: deque[tuple[int, Batch, Metrics, float]] = deque()
            while True:
                if evaluate and step in evaluated and step not in checkpointer.scores:
                    with stop.at_once():
                        scores = dict(evaluate(state))
                    log.write_scores(step, scores)
                    checkpointer.add_scores(step, scores)
                    log.restart_clock()
                if step == batches.num_batches:
                    return state
                if _out_of_patience(checkpointer.scores, selection, stage_config.patience):
                    evaluations = f"{stage_config.patience} evaluations"
                    log.say(f"{stage.name}: stopped, {selection.name} has not improved for {evaluations}")
                    return state
                step += 1
                asked = time.perf_counter()
                batch = next(iterator)
                waited = time.perf_counter() - asked
                _skip_broken(batch, batches, broken, config.data.skip_broken, log)
                trace.before(step)
                state, metrics = step_fn(state, shard_batch(batch, mesh), run_key)
                trace.after(step, metrics)
                stopping = stop.reached(step)
                saving = stopping or step in evaluated or step % config.checkpoint.every_steps == 0
                untold.append((step, batch, metrics, waited))
                late = 0 if saving else 1  # a step late, so that the device never waits for the host
                while len(untold) > late:
                    tell(*untold.popleft())
                if not saving:
                    continue
                if not all_finite(state):
                    raise TrainingError(f"the state after step {step:,} is not finite, though its loss is")
                position = {"iterator": iterator.get_state(), "broken": sorted(broken)}
                checkpointer.save(state, data=position, meta=meta)
                if stopping:
                    checkpointer.wait()
                    stop.now(f" after step {step:,} of {stage.name}, which is saved")
                log.restart_clock()


def _evaluated_steps(epoch_ends: np.ndarray, eval_every: int) -> set[int]:
    """The last step of every `eval_every`-th epoch, and of the last."""
    ends = epoch_ends.tolist()
    return {*ends[eval_every - 1 :: eval_every], *ends[-1:]}


def _out_of_patience(scores: Scores, selection: SelectionMetric, patience: int) -> bool:
    """Return whether the last `patience` evaluations improved nothing; never if 0."""
    in_order = [selection.quality(scores[step]) for step in sorted(scores) if selection.name in scores[step]]
    return bool(patience and in_order) and len(in_order) - 1 - int(np.argmax(in_order)) >= patience


def _skip_broken(batch: Batch, batches: Batches, broken: set[int], limit: int, log: RunLog) -> None:
    """Adds the batch's broken clips to `broken`, and tells of each once."""
    found = set(batch.index[(batch.index >= 0) & ~batch.valid].tolist()) - broken
    broken |= found
    for index in sorted(found):
        log.say(f"skipped the broken clip {batches.clips[index].id}: {len(broken)} of at most {limit}")
    if len(broken) > limit:
        ids = ", ".join(batches.clips[index].id for index in sorted(broken))
        raise TrainingError(
            f"more than {limit} clips are broken: {ids}. Prepare the dataset again, or raise data.skip_broken"
        )
