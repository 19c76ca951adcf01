"""What a run writes down as it goes: `log.jsonl`, TensorBoard, and a line of progress in the terminal.

Of several processes the first alone writes; the others may call all the same.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TextIO

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from sslssaw_jax.workdir import LOG, TENSORBOARD, read_log, write_jsonl


class RunLog:
    """The log of one stage: `WORKDIR/log.jsonl`, `WORKDIR/tensorboard/STAGE/` and a line in the terminal.

    `count` each step, `write` each logged step; rates are those between two calls of `write`. Of several
    processes only the first one writes.

        with RunLog(workdir, "translate", num_steps=8880, start_step=int(state.step)) as log:
            ...
            log.count(clips=16, frames=1820, waited=0.004)
            if step % log_every == 0:
                log.write(step, {"loss": 2.5, "lr": 0.01})

    Args:
        workdir: folder of the run.
        stage: written to each line.
        num_steps: steps of the stage in all.
        start_step: steps already taken. Lines of this stage after it, written by an interrupted run that
            got further than its last checkpoint, are dropped, so that no step is logged twice.
        peak_flops: FLOP/s of all devices at their best, for the MFU; 0 where unknown.
        stream: where the progress goes; one line rewritten in a terminal, a line each time elsewhere.
    """

    def __init__(
        self,
        workdir: str | Path,
        stage: str,
        *,
        num_steps: int,
        start_step: int = 0,
        peak_flops: float = 0.0,
        stream: TextIO | None = None,
    ) -> None:
        self._stage, self._num_steps, self._peak_flops = stage, num_steps, peak_flops
        self._stream = stream or sys.stderr
        self._writes = jax.process_index() == 0
        self._step = start_step
        self._line_is_open = False
        self.restart_clock()
        if not self._writes:
            return
        path = Path(workdir) / LOG
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            write_jsonl(
                path, [row for row in read_log(path) if row["stage"] != stage or row["step"] <= start_step]
            )
        self._file = path.open("a", encoding="utf-8")
        folder = Path(workdir) / TENSORBOARD / stage
        folder.mkdir(parents=True, exist_ok=True)
        # not `SummaryWriter`: when its thread dies on a full disk, the run waits for it forever
        self._tensorboard = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)  # hides what an interrupted run wrote from here on
        self._tensorboard.write_event(Event(step=start_step + 1, session_log=start))

    def restart_clock(self) -> None:
        """Forgets what was counted since the last `write`: after an evaluation, which is no training time."""
        self._since = time.perf_counter()
        self._steps = self._clips = self._frames = 0
        self._waited = self._flops = 0.0

    def count(self, *, clips: int, frames: int, waited: float, flops: float = 0.0) -> None:
        """Adds one step: its clips and frames, seconds spent waiting for the data, and FLOPs."""
        self._steps += 1
        self._clips += clips
        self._frames += frames
        self._waited += waited
        self._flops += flops

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs a step, counted from 1: `values` (the loss, its parts, `lr`) and the rates since the last."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        scalars = {key: float(value) for key, value in values.items()} | {
            "step_time": seconds / max(self._steps, 1),
            "clips_per_s": self._clips / seconds,
            "frames_per_s": self._frames / seconds,
            "input_wait": min(self._waited / seconds, 1.0),
        }
        if self._peak_flops and self._flops:
            scalars["mfu"] = self._flops / seconds / self._peak_flops
        if self._writes:
            row = {"step": step, "stage": self._stage} | {key: _rounded(x) for key, x in scalars.items()}
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        self._plot(step, scalars)
        seconds_left = (self._num_steps - step) * scalars["step_time"]
        mfu = f"MFU {scalars['mfu']:.0%}  " if "mfu" in scalars else ""
        self._show(
            f"{self._stage} {step:,}/{self._num_steps:,}  loss {scalars['loss']:.4g}  "
            f"{scalars['step_time']:.3g} s/step  {scalars['clips_per_s']:,.1f} clips/s  "
            f"{scalars['frames_per_s']:,.0f} frames/s  {mfu}input wait {scalars['input_wait']:.0%}  "
            f"ETA {timedelta(seconds=round(seconds_left))}"
        )
        self._step = step
        self.restart_clock()

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Shows what the evaluation after a step found on dev, in TensorBoard and the terminal."""
        self._plot(step, {f"dev/{key}": value for key, value in scores.items()})
        shown = "  ".join(f"{key} {value:.2f}" for key, value in scores.items())
        self.say(f"{self._stage} {step:,}: dev {shown}")

    def _plot(self, step: int, scalars: Mapping[str, float]) -> None:
        if not self._writes:
            return
        for key, value in scalars.items():
            event = Event(wall_time=time.time(), step=step, summary=scalar(key, value))
            self._tensorboard.write_event(event)
        self._tensorboard.flush()

    def say(self, text: str) -> None:
        """Prints a message that stays, above the line of progress."""
        self._end_line()
        if self._writes:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the line of progress and closes the files."""
        self._end_line()
        if self._writes:
            self._file.close()
            self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, line: str) -> None:
        if not self._writes:
            return
        if not self._stream.isatty():
            print(line, file=self._stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be rewritten
        print(f"\r{line[:width]}\x1b[K", end="", file=self._stream, flush=True)
        self._line_is_open = True

    def _end_line(self) -> None:
        if self._line_is_open:
            print(file=self._stream, flush=True)
        self._line_is_open = False


def _rounded(value: float) -> float | None:
    """Six significant digits; null where JSON has no such number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
