"""Time a translator from its import to later clips: `python -m benchmarks.translator --model=runs/demo`.

The clips are the first of the demo's test split, rendered as mp4 files of 320 x 240 pixels. Wall-clock
seconds in a fresh process; reading a video counts, rendering it does not.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import keep

SIZE = (240, 320)
GOALS = {"load": "3", "a later clip": "0.3"}


def write_clip(row: Any, path: Path) -> None:
    """Render a row of the demo as an mp4 or webm file."""
    import cv2

    from tfds_builders.avatar import render
    from tfds_builders.avatar_qa.grammar import LEXICON

    signs = row.sentence.glosses
    codec = "VP80" if path.suffix == ".webm" else "mp4v"  # no browser plays the second
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, SIZE[::-1])
    for frame in render(signs, row.num_frames, signer=row.signer, size=SIZE, seed=row.seed, lexicon=LEXICON):
        video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    video.release()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a run's workdir, or a model folder")
    parser.add_argument("--clips", type=int, default=20, help="number of rendered clips")
    options = parser.parse_args()
    times = [time.perf_counter()]
    from sslssaw_jax import Translator

    times.append(time.perf_counter())
    translator = Translator.from_pretrained(options.model)
    times.append(time.perf_counter())
    seconds = {"import": [times[1] - times[0]], "load": [times[2] - times[1]]}

    from tfds_builders.avatar_qa.avatar_qa_dataset_builder import NUM_CLIPS, SEED
    from tfds_builders.avatar_qa.grammar import rows

    chosen, right = rows(NUM_CLIPS, SEED)["test"][: options.clips], 0
    with tempfile.TemporaryDirectory() as folder:
        for row in chosen:
            file = Path(folder) / f"{row.id}.mp4"
            write_clip(row, file)
            start = time.perf_counter()
            answer = translator(file, row.sentence.question)
            what = "a later clip" if "first clip" in seconds else "first clip"
            seconds.setdefault(what, []).append(time.perf_counter() - start)
            right += answer.text == row.sentence.target
    table = [
        [what, f"{median(found):.2f}", f"{max(found):.2f}", GOALS.get(what, "")]
        for what, found in seconds.items()
    ]
    title = f"From a video to a sentence; {right} of {len(chosen)} right"
    keep("translator", title, ["what", "seconds, median", "at most", "goal"], table)


if __name__ == "__main__":
    main()
