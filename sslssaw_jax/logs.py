"""What a run writes down as it goes: `log.jsonl`, TensorBoard, and a line of progress in the terminal."""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TextIO

import tensorboardX


def write_json(path: str | Path, obj: Any) -> None:
    """Writes `obj` as indented JSON by one rename: the file is whole, or as it was before."""
    write_text(Path(path), json.dumps(obj, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line by one rename: the file is whole, or as it was before."""
    write_text(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Writes `text` by one rename: the file is whole, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class RunLog:
    """The log of one stage: `WORKDIR/log.jsonl`, `WORKDIR/tensorboard/STAGE/` and a line in the terminal.

    `count` each step, `write` each logged step; rates are those between two calls of `write`.

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
        stream: where the progress goes; one line rewritten in a terminal, a line each time elsewhere.
    """

    def __init__(
        self,
        workdir: str | Path,
        stage: str,
        *,
        num_steps: int,
        start_step: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        self._stage, self._num_steps = stage, num_steps
        self._stream = stream or sys.stderr
        path = Path(workdir) / "log.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            write_jsonl(
                path, [row for row in _rows(path) if row["stage"] != stage or row["step"] <= start_step]
            )
        self._file = path.open("a", encoding="utf-8")
        self._tensorboard = tensorboardX.SummaryWriter(
            str(Path(workdir) / "tensorboard" / stage), purge_step=start_step + 1
        )
        self._step = start_step
        self._line_is_open = False
        self.restart_clock()

    def restart_clock(self) -> None:
        """Forgets what was counted since the last `write`: after an evaluation, which is no training time."""
        self._since = time.perf_counter()
        self._clips = self._frames = 0
        self._waited = 0.0

    def count(self, *, clips: int, frames: int, waited: float) -> None:
        """Adds one step's clips, frames and seconds spent waiting for the data."""
        self._clips += clips
        self._frames += frames
        self._waited += waited

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs a step, counted from 1: `values` (the loss, its parts, `lr`) and the rates since the last."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        scalars = {key: float(value) for key, value in values.items()} | {
            "clips_per_s": self._clips / seconds,
            "frames_per_s": self._frames / seconds,
            "input_wait": min(self._waited / seconds, 1.0),
        }
        row = {"step": step, "stage": self._stage} | {key: _rounded(x) for key, x in scalars.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self.scalars(step, scalars)
        seconds_left = (self._num_steps - step) * seconds / max(step - self._step, 1)
        self._show(
            f"{self._stage} {step:,}/{self._num_steps:,}  loss {scalars['loss']:.4g}  "
            f"{scalars['clips_per_s']:,.1f} clips/s  {scalars['frames_per_s']:,.0f} frames/s  "
            f"input wait {scalars['input_wait']:.0%}  ETA {timedelta(seconds=round(seconds_left))}"
        )
        self._step = step
        self.restart_clock()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values for TensorBoard alone, such as the scores on dev."""
        for key, value in values.items():
            self._tensorboard.add_scalar(key, value, step)

    def say(self, text: str) -> None:
        """Prints a message that stays, above the line of progress."""
        self._end_line()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the line of progress and closes the files."""
        self._end_line()
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, line: str) -> None:
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


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that an interruption cut short is left out."""
    rows = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def _rounded(value: float) -> float | None:
    """Six significant digits; null where JSON has no such number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
