"""The training loop, the same for every stage and model."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.config.stages import OptimConfig, StageConfig
from sslssaw_jax.data.batches import Batches
from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.models.cpu_gradients import compiler_options
from sslssaw_jax.stages.rate_factors import check_rate_factors
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.training.checkpoints import Checkpointer
from sslssaw_jax.training.compilation_cache import quick_compilation
from sslssaw_jax.training.faults import TrainingError, all_finite, require_finite, steadier
from sslssaw_jax.training.optimizer import make_optimizer, plateau_factor
from sslssaw_jax.training.profiling import CountedStep, Trace, peak_flops
from sslssaw_jax.training.run_log import RunLog
from sslssaw_jax.training.sharding import replicated, shard_batch, with_shardings
from sslssaw_jax.training.signals import StopRequest
from sslssaw_jax.training.tracker import start_tracker
from sslssaw_jax.types import Batch, Metrics, SelectionMetric, TrainState
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
) -> TrainState:
    """Train a stage to its end, from the latest checkpoint if any.

    A state is saved before it is evaluated, and its scores afterwards. Wherever the process is killed, the
    next process repeats what was not saved and ends with the same numbers.

    Args:
        stage: The model and its loss.
        stage_config: Epochs, optimizer, and how often to evaluate.
        config: The run's configuration: seed, logging, checkpoints.
        workdir: Gets `log.jsonl`, `tensorboard/`, `checkpoints/` and `profile/`.
        mesh: The devices.
        batches: All batches of the stage, one per step.
        meta: Notes kept in each checkpoint (configuration, tokenizer).
        stop: Asked after each step.
        start: Puts parameters from elsewhere into the fresh state.
        evaluate: Returns the scores on dev; `stage.selection` names the score that counts.

    Returns:
        The state after the last step.

    Raises:
        ConfigError: `optim` does not fit the stage or its model.
        CheckpointError: The workdir holds a checkpoint of another model, or only damaged checkpoints; or a
            checkpoint cannot be written.
        TrainingError: A loss or gradient is not finite, or too many clips are broken.
        Stopped: `stop` was requested; the state is saved.
    """
    optimizer, schedule = make_recipe(stage, stage_config, batches)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    # device_put cannot put a key on devices of other processes
    run_key = jax.jit(lambda key: key, out_shardings=replicated(mesh))(run_key)
    averaged = stage_config.ema_decay > 0
    template = with_shardings(stage.abstract_state(optimizer, averaged), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    evaluated = _evaluated_steps(batches.epoch_ends, stage_config.eval_every)
    with Checkpointer(
        workdir / CHECKPOINTS,
        keep_latest=config.checkpoint.keep_latest,
        keep_best=config.checkpoint.keep_best,
        selection=stage.selection,
    ) as checkpointer:
        restored = checkpointer.restore(template)
        data = _TrainingData(batches, config.data.skip_broken, mesh)
        if restored:
            state, position, _ = restored
            data.set_position(position)
        else:
            # not under jit: compiling all the random draws takes longer than making them
            with quick_compilation():
                state = jax.device_put(stage.init(init_key, optimizer, averaged), shardings)
            state = start(state) if start else state
        step = int(state.step)
        log = RunLog(
            workdir,
            stage.name,
            epoch_ends=batches.epoch_ends.tolist(),
            start_step=step,
            peak_flops=peak_flops(config.logging.peak_tflops),
            tracker=start_tracker(config, workdir, stage.name),
        )
        # all in one call: on a GPU, each would wait for the step in progress
        rates = np.asarray(jax.vmap(schedule)(np.arange(batches.num_batches)))
        log_steps = partial(_log_steps, stage.name, log, config, rates, batches.clips, workdir)
        pending: list[_Step] = []  # to log
        step_fn = partial(
            train_step,
            graphdef=stage.freezing_def(stage_config.optim.rate_factors),
            loss=stage.loss,
            optimizer=optimizer,
            ema_decay=stage_config.ema_decay,
            factors=stage_config.optim.rate_factors,
        )
        jitted = jax.jit(
            step_fn,
            donate_argnums=0,
            out_shardings=(shardings, replicated(mesh)),
            compiler_options=compiler_options(),
        )

        @contextmanager
        def compiling(batch: Batch, *_: Any) -> Iterator[None]:
            with log.compiling(_shape(batch)), stop.at_once(checkpointer.wait):
                yield

        counted_step = CountedStep(jitted, compiling=compiling)
        with log, Trace(config.logging.profiled_steps, workdir / PROFILE) as trace, stop.deferred():
            if restored:
                log.info(f"{stage.name}: continuing from step {step:,} in {workdir}")
            while True:
                if evaluate and step in evaluated and step not in checkpointer.scores:
                    log.info(f"{stage.name} {step:,}: scoring dev ...")
                    with log.paused(), stop.at_once(checkpointer.wait):
                        scores = dict(evaluate(state))
                    if stage.selection and stage.selection.name not in scores:
                        raise TrainingError(
                            f"{stage.name} chooses its best state by {stage.selection.name}, but its scores "
                            f"on dev are {', '.join(scores)}: name one of these as the stage's `selection`"
                        )
                    log.write_scores(step, scores)
                    checkpointer.add_scores(step, scores)
                if step == batches.num_batches:
                    break
                if _out_of_patience(checkpointer.scores, stage.selection, stage_config.patience):
                    log.info(f"{stage.name}: stopped, no better score in {stage_config.patience} evaluations")
                    break
                factor = _plateau(checkpointer.scores, stage.selection, stage_config.optim)
                optim = stage_config.optim
                if factor < 1 and factor * optim.learning_rate < optim.final_learning_rate:
                    least = f"--config.{stage.name}.optim.final_learning_rate"
                    log.info(f"{stage.name}: stopped, the learning rate is below {least}")
                    break
                step += 1
                (batch, on_devices), waited = data.next(log)
                trace.before(step)
                state, metrics = counted_step(state, on_devices, run_key, np.float32(factor))
                trace.after(step, metrics)
                pending.append(_Step(step, batch, metrics, waited, counted_step.flops, factor))
                stopping = stop.reached()
                saving = stopping or step in evaluated or step % config.checkpoint.every_steps == 0
                late = 0 if saving else 1  # one step late, so that the device never waits for the host
                due = len(pending) - late
                log_steps(pending[:due])
                del pending[:due]
                if not saving:
                    continue
                if not all_finite(state):
                    raise TrainingError(
                        f"the state after step {step:,} is not finite, though its loss is: "
                        f"{steadier(stage.name)}"
                    )
                with log.paused():
                    checkpointer.save(state, data=data.position, meta=meta)
                if stopping:
                    checkpointer.wait()
                    stop.now(f" after step {step:,} of {stage.name}, which is saved")
            checkpointer.wait()  # before a signal may end the process
            if stop.reached():  # in the last evaluation
                stop.now(f" after the last step of {stage.name}, which is saved")
            return state


def make_recipe(
    stage: Stage, config: StageConfig, batches: Batches
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make the optimizer of a stage and its schedule.

    Raises:
        ConfigError: The configuration does not fit the stage or its model.
    """
    optim = config.optim
    try:
        made = make_optimizer(optim, batches.num_batches, batches.epoch_ends.tolist())
        if (optim.schedule == "plateau" or config.patience) and not stage.selection:
            key = "patience" if config.patience else "optim.schedule='plateau'"
            raise ConfigError(f"{key} follows scores on dev, which this stage does not have")
        if optim.rate_factors:
            check_rate_factors(optim.rate_factors, stage.abstract_state().params, stage.module_names)
    except ConfigError as error:  # a group knows its keys, not its own path
        raise ConfigError(f"config.{stage.name}.{error}") from None
    return made


class _Step(NamedTuple):
    """A step that may still be computing."""

    number: int  # from 1
    batch: Batch
    metrics: Metrics
    waited: float  # seconds for data
    flops: float
    factor: float  # of the schedule's learning rate


def _shape(batch: Batch) -> str:
    """Say what distinguishes batches for which a step is compiled separately."""
    texts, rows = batch.decoder_texts, batch.most_rows
    tokens = f"questions of {texts.question.shape[-1]} and targets of {texts.target.shape[-1]} tokens"
    reads_video = batch.features or batch.frames.shape[-3] > 1
    return tokens + (f", clips of {rows} frames or rows" if rows and reads_video else "")


class _Sent(NamedTuple):
    """A batch on its way to the devices."""

    batch: Batch
    on_devices: Batch


class _TrainingData:
    """The batches of a run, sent a step ahead, and the broken clips so far.

    A copy to a GPU may wait for all steps enqueued before it. Batch k+1 is sent before step k is enqueued, so
    that both can run at the same time.
    """

    def __init__(self, batches: Batches, max_broken: int, mesh: Mesh) -> None:
        self._batches, self._max_broken, self._mesh = batches, max_broken, mesh
        self._iterator = batches.iterator()
        self._position = self._iterator.get_state()  # after this step's batch
        self._next: Future[_Sent] | None = None
        self._broken: set[int] = set()

    @property
    def position(self) -> dict[str, Any]:
        """Return the position after the last batch returned, as JSON."""
        return {"iterator": self._position, "broken": sorted(self._broken)}

    def set_position(self, position: dict[str, Any]) -> None:
        """Continue from a saved position."""
        self._position = position["iterator"]
        self._iterator.set_state(self._position)
        self._broken.update(position["broken"])

    def next(self, log: RunLog) -> tuple[_Sent, float]:
        """Return a step's batch and the seconds waited; send the next batch.

        Raises:
            TrainingError: More clips are broken than `data.skip_broken` allows.
        """
        began = time.perf_counter()
        sent = (self._next or self._send()).result()
        self._position = self._iterator.get_state()
        self._next = self._send()
        waited = time.perf_counter() - began
        self._report_broken(sent.batch, log)
        return sent, waited

    def _send(self) -> Future[_Sent]:
        """Send the next batch; `next` raises its error if any."""
        sent: Future[_Sent] = Future()
        try:
            batch = next(self._iterator)
            sent.set_result(_Sent(batch, shard_batch(batch, self._mesh)))
        except Exception as error:
            sent.set_exception(error)
        return sent

    def _report_broken(self, batch: Batch, log: RunLog) -> None:
        found = set(batch.index[(batch.index >= 0) & ~batch.valid].tolist()) - self._broken
        self._broken |= found
        clips, number, limit = self._batches.clips, len(self._broken), self._max_broken
        for index in sorted(found):
            log.info(f"skipped the broken clip {clips[index].id}: {number} of at most {limit}")
        if number > limit:
            ids = ", ".join(clips[index].id for index in sorted(self._broken))
            raise TrainingError(
                f"more than {limit} clips are broken: {ids}. Prepare the dataset again, or raise "
                "config.data.skip_broken"
            )


def _log_steps(
    stage: str,
    log: RunLog,
    config: Config,
    rates: np.ndarray,
    clips: Sequence[ClipInfo],
    workdir: Path,
    steps: Sequence[_Step],
) -> None:
    """Wait for steps, check that they are finite, and log them."""
    rows = {}
    try:
        for step, batch, metrics, waited, flops, factor in steps:
            values = {key: float(value) for key, value in jax.device_get(metrics).items()}
            watched = {key: values[key] for key in ("loss", "grad_norm")}
            require_finite(stage, step, watched, batch, clips, workdir)
            num_clips, num_frames = int(batch.valid.sum()), int(batch.frame_count.sum())
            log.count(clips=num_clips, frames=num_frames, waited=waited, flops=flops)
            if step % config.logging.every_steps == 0 or step == len(rates):
                rows[step] = values | {"lr": factor * float(rates[step - 1])}
    finally:
        if rows:
            log.write(rows)


def _evaluated_steps(epoch_ends: np.ndarray, eval_every: int) -> set[int]:
    """Return the last step of each `eval_every`-th and the last epoch."""
    ends = epoch_ends.tolist()
    return {*ends[eval_every - 1 :: eval_every], *ends[-1:]}


def _out_of_patience(scores: Scores, selection: SelectionMetric | None, patience: int) -> bool:
    """Return whether the last `patience` evaluations improved nothing; with 0, never."""
    if not (selection and patience and scores):
        return False
    in_order = _qualities(scores, selection)
    return len(in_order) - 1 - int(np.argmax(in_order)) >= patience


def _plateau(scores: Scores, selection: SelectionMetric | None, optim: OptimConfig) -> float:
    """Return the factor of the learning rate after all scores."""
    if not (selection and optim.schedule == "plateau"):
        return 1.0
    return plateau_factor(optim, _qualities(scores, selection))


def _qualities(scores: Scores, selection: SelectionMetric) -> list[float]:
    return [selection.quality(scores[step]) for step in sorted(scores)]
