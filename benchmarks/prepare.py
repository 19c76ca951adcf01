"""Speed and memory of preparing PHOENIX-2014T-QA: `python -m benchmarks.prepare --annotations=DIR`.

Renders a sample of the real clips as PNG frames of the release's size, prepares it as `tfds_builders.prepare`
does, and prints a row for benchmarks/results/prepare.md. With `--manual_dir` it prepares what is there.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfds_builders.encode_frames import Resize, read_clip
from tfds_builders.parallel import available_cpus

NAME = "phoenix2014t_qa"
NUM_CLIPS = 10  # of the measure of a worker
HEADER = (
    "| frames | --resize | processes | CPU s | wall s | frames a CPU s | of a worker | largest process "
    "| dataset |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def measure(manual_dir: Path, resize: str, num_workers: int) -> str:
    """A row of the table.

    CPU seconds are those of all processes together, their start included; a worker's frames per CPU second
    are those of reading, decoding, resizing and encoding alone. The memory is that of the largest process.
    """
    with tempfile.TemporaryDirectory(dir=manual_dir.parent) as data_dir:
        command = [sys.executable, "-m", "tfds_builders.prepare", NAME, f"--manual_dir={manual_dir}"]
        command += [f"--data_dir={data_dir}", f"--resize={resize}", f"--num_workers={num_workers}"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), os.times().elapsed
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), os.times().elapsed - start
        size = sum(file.stat().st_size for file in Path(data_dir).rglob("*") if file.is_file())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    frames = sum(len(files) for _, _, files in os.walk(manual_dir / "features"))
    return (
        f"| {frames:,} | {resize} | {1 + num_workers} | {cpu:,.0f} | {wall:,.0f} | {frames / cpu:,.0f} | "
        f"{worker_speed(manual_dir, resize):,.0f} | "
        f"{after.ru_maxrss / 1024:,.0f} MB | {size / 1e6:,.0f} MB |"
    )


def worker_speed(manual_dir: Path, resize: str) -> float:
    """Frames per CPU second of `read_clip`, over some clips."""
    clips = sorted(manual_dir.glob("features/*/train/*"))[:NUM_CLIPS]
    start = time.process_time()
    count = sum(len(read_clip(clip, Resize.parse(resize)).video) for clip in clips)
    return count / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--annotations", type=Path, help="holds the question files: render a sample")
    given.add_argument("--manual_dir", type=Path, help="a release or a rehearsal corpus")
    parser.add_argument("--limit", type=int, default=60, help="clips a split of the sample")
    parser.add_argument("--resize", default="256")
    parser.add_argument("--num_workers", type=int, default=available_cpus())
    options = parser.parse_args()
    print(HEADER)
    if options.manual_dir:
        print(measure(options.manual_dir, options.resize, options.num_workers))
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        command = [sys.executable, "-m", "tfds_builders.rehearsal.__main__", NAME, f"--limit={options.limit}"]
        command += [f"--annotations={options.annotations}", f"--out={corpus}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(measure(corpus, options.resize, options.num_workers))


if __name__ == "__main__":
    main()
