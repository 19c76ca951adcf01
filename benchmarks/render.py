"""Speed of the rendered signer on one core: `python -m benchmarks.render`."""

import time

import cv2

from tfds_builders.avatar import render

# (height, width), frames per clip; the demo, a small corpus, PHOENIX-2014T's size, the prepared size.
CLIPS = (((48, 48), 40), ((112, 112), 116), ((260, 210), 116), ((256, 256), 116))
SECONDS = 2.0


def frames_per_second(size: tuple[int, int], num_frames: int) -> float:
    """Rendered frames per second of processor time; a sign takes 14 frames, as in PHOENIX-2014T."""
    glosses = [f"GLOSS{i}" for i in range(max(1, num_frames // 14))]
    render(glosses, num_frames, signer=0, size=size, seed=0)
    clips, start = 0, time.process_time()
    while time.process_time() - start < SECONDS:
        render(glosses, num_frames, signer=clips % 8, size=size, seed=clips)
        clips += 1
    return clips * num_frames / (time.process_time() - start)


def main() -> None:
    cv2.setNumThreads(1)
    print("| height x width | frames a clip | frames/s on one core |\n| --- | --- | --- |")
    for size, num_frames in CLIPS:
        print(
            f"| {size[0]}x{size[1]} | {num_frames} | {frames_per_second(size, num_frames):,.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
