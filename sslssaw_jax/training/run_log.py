"""The log of a run: `log.jsonl`, TensorBoard, a tracker, and progress in the terminal."""

import json
import math
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from sslssaw_jax.data.progress import SECONDS_A_LINE
from sslssaw_jax.training.progress import duration
from sslssaw_jax.training.tracker import Tracker
from sslssaw_jax.workdir import LOG, TENSORBOARD, inside, is_first_process, read_log, write_jsonl


class RunLog:
    """A log of one stage: `WORKDIR/log.jsonl`, `WORKDIR/tensorboard/STAGE/` and a progress bar.

    Call `count` after each step and `write` for logged steps; rates are measured between two calls of
    `write`. Only the first of several processes writes.

    Args:
        workdir: Folder of the run.
        stage: Name that each line gets.
        epoch_ends: The last step of each epoch.
        start_step: Steps already taken. Later lines of this stage, from an interrupted run that got further
            than its last checkpoint, are dropped, so that no step is logged twice.
        peak_flops: Peak FLOP/s of all devices, for the MFU; 0 if unknown.
        tracker: Receives what TensorBoard gets, and is finished with the log.
        stream: Where progress goes: a progress bar in a terminal, otherwise a line every
            `SECONDS_A_LINE` and at the last step.
    """

    def __init__(
        self,
        workdir: Path,
        stage: str,
        *,
        epoch_ends: Sequence[int],
        start_step: int = 0,
        peak_flops: float = 0.0,
        tracker: Tracker | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self._stage, self._epoch_ends, self._peak_flops = stage, epoch_ends, peak_flops
        self._stream = stream or sys.stderr
        self._tracker = tracker
        self._writes = is_first_process()
        self._bar = tqdm(
            desc=stage,
            total=epoch_ends[-1],
            initial=start_step,
            file=self._stream,
            # what a narrow terminal cuts off comes last
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            dynamic_ncols=True,
            mininterval=0,
            miniters=1,
            disable=not (self._writes and self._stream.isatty()),
        )
        self._restart_clock()
        self._all_steps, self._all_seconds = 0, 0.0
        self._told = -math.inf  # when the last line of progress was printed
        if not self._writes:
            return
        path, folder = workdir / LOG, inside(workdir, workdir / TENSORBOARD / stage)
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_log(path) if row["stage"] != stage or row["step"] <= start_step]
        write_jsonl(path, kept)
        self._file = path.open("a", encoding="utf-8")
        # an `EventFileWriter` would import TensorFlow if that is installed
        self._tensorboard = RecordWriter((folder / f"events.out.tfevents.{time.time_ns()}").open("wb"))
        self._write_event(file_version="brain.Event:2")
        start = SessionLog(status=SessionLog.START)  # hides what an interrupted run wrote after this step
        self._write_event(step=start_step + 1, session_log=start)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time in this block from all rates."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began
            self._bar.unpause()

    def count(self, *, clips: int, frames: int, waited: float, flops: float = 0.0) -> None:
        """Count a step's clips, frames, FLOPs, and seconds waited for data."""
        self._steps += 1
        self._clips += clips
        self._frames += frames
        self._waited += waited
        self._flops += flops

    def write(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Log the values of steps with the rates since the last call."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        self._all_steps += self._steps
        self._all_seconds += seconds
        rates = {
            "step_time": seconds / max(self._steps, 1),
            "clips_per_s": self._clips / seconds,
            "frames_per_s": self._frames / seconds,
            "input_wait": min(self._waited / seconds, 1.0),
        }
        if self._peak_flops and self._flops:
            rates["mfu"] = self._flops / seconds / self._peak_flops
        for step, values in rows.items():
            scalars = {key: float(value) for key, value in values.items()} | rates
            if self._writes:
                row = {"step": step, "stage": self._stage} | {key: _rounded(x) for key, x in scalars.items()}
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
            self._plot(step, scalars)
            self._show(step, scalars)
        self._restart_clock()

    @contextmanager
    def compiling(self, shape: str) -> Iterator[None]:
        """Report a compilation and its time, which is excluded from all rates."""
        began = time.perf_counter()
        self.info(f"{self._stage}: compiling the training step for {shape} ...")
        with self.paused():
            yield
        self.info(f"{self._stage}: compiled in {time.perf_counter() - began:.0f} s")

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Show scores on dev in TensorBoard and in the terminal."""
        self._plot(step, {f"dev/{key}": value for key, value in scores.items()})
        shown = "  ".join(f"{key} {value:.2f}" for key, value in scores.items())
        self.info(f"{self._stage} {step:,}: dev {shown}")

    def info(self, message: str) -> None:
        """Print a message above the progress bar."""
        if self._writes:
            tqdm.write(message, file=self._stream)

    def _plot(self, step: int, scalars: Mapping[str, float]) -> None:
        if not self._writes:
            return
        values = [Summary.Value(tag=key, simple_value=value) for key, value in scalars.items()]
        self._write_event(step=step, summary=Summary(value=values))
        self._tensorboard.flush()
        if self._tracker:
            self._tracker.log(dict(scalars), step=step)

    def _write_event(self, **content: Any) -> None:
        self._tensorboard.write(Event(wall_time=time.time(), **content).SerializeToString())

    def _show(self, step: int, scalars: Mapping[str, float]) -> None:
        epoch = f"epoch {bisect_left(self._epoch_ends, step) + 1}/{len(self._epoch_ends)}"
        facts = [
            f"loss {scalars['loss']:.4g}",
            f"{scalars['clips_per_s']:,.1f} clips/s",
            *([f"{frames:,.0f} frames/s"] if (frames := scalars["frames_per_s"]) else []),
            *([f"MFU {scalars['mfu']:.0%}"] if "mfu" in scalars else []),
            f"input wait {scalars['input_wait']:.0%}",
            f"{scalars['step_time']:.3g} s/step",
        ]
        last, now = self._epoch_ends[-1], time.perf_counter()
        if self._bar.disable and (step == last or now - self._told >= SECONDS_A_LINE):
            self._told = now
            left = duration((last - step) * self._all_seconds / max(self._all_steps, 1))
            self.info(f"{self._stage} {step:,}/{last:,}  {epoch}  ETA {left}  " + "  ".join(facts))
        self._bar.set_description(f"{self._stage} {epoch}", refresh=False)
        self._bar.set_postfix_str(", ".join(facts), refresh=False)
        self._bar.update(step - self._bar.n)

    def _restart_clock(self) -> None:
        self._since = time.perf_counter()
        self._steps = self._clips = self._frames = 0
        self._waited = self._flops = 0.0

    def close(self) -> None:
        """End the progress bar and close the files."""
        self._bar.close()
        if self._writes:
            self._file.close()
            self._tensorboard.close()
        if self._tracker:
            self._tracker.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rounded(value: float) -> float | None:
    """Return six significant digits, or None for numbers that JSON lacks."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
