"""What a run shows during long steps: messages, and progress over a split."""

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta

from tqdm import tqdm

from sslssaw_jax.data.progress import SECONDS_A_LINE
from sslssaw_jax.types import Batch
from sslssaw_jax.workdir import is_first_process


def announce(message: str) -> None:
    """Print a message above the progress bars, in the first process."""
    if is_first_process():
        tqdm.write(message, file=sys.stderr)


def show_progress(batches: Iterable[Batch], num_clips: int, what: str) -> Iterator[Batch]:
    """Yield batches; show the clips done and the time left.

    The time left is estimated from all batches but the first, during which JAX compiles.

    Args:
        batches: Evaluated by the caller, one after the other.
        num_clips: Of all batches.
        what: The text before the progress.
    """
    iterator, done = iter(batches), 0
    for batch in iterator:
        yield batch
        done += int(batch.valid.sum())
        break
    bar = tqdm(
        iterator,
        desc=what,
        total=num_clips,
        initial=done,
        unit="clip",
        leave=False,
        dynamic_ncols=True,
        disable=not (is_first_process() and sys.stderr.isatty()),
    )
    first, began = done, time.perf_counter()
    told = began
    with bar:
        for batch in iterator:
            yield batch
            clips = int(batch.valid.sum())
            done += clips
            bar.update(clips)
            now = time.perf_counter()
            if bar.disable and now - told >= SECONDS_A_LINE:
                left = (num_clips - done) * (now - began) / (done - first)
                announce(f"{what}: {done:,}/{num_clips:,} clips  ETA {duration(left)}")
                told = now


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds: `0:08:10`."""
    return str(timedelta(seconds=round(seconds)))
