"""Draw a contact sheet of the rendered signer.

    python -m tfds_builders.avatar.sheet --out=docs/avatar.png

The top row shows eight signers; each row below shows a sign of the demo by two of them.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from sslssaw_jax.errors import ends_in_one_line, set_up_output
from sslssaw_jax.workdir import picture_path
from tfds_builders.avatar import Signer, render
from tfds_builders.avatar_qa.grammar import LEXICON, SIGNERS

GLOSSES = ("RAIN", "NORTH", "SUNDAY", "STRONG", "SEVEN", "CLOUD")
COLUMNS = 8
NUM_FRAMES = 14
SHOWN = (3, 5, 7, 10)  # indices of frames


def contact_sheet(side: int = 112) -> np.ndarray:
    """Return the RGB sheet: a row of signers, then one per gloss."""
    # PNG cannot compress noise.
    people = [dataclasses.replace(Signer.of(name), noise=0.0) for name in SIGNERS[:COLUMNS]]

    def draw(gloss: str, person: Signer, shown: tuple[int, ...]) -> list[np.ndarray]:
        clip = render([gloss], NUM_FRAMES, signer=person, size=(side, side), seed=0, lexicon=LEXICON)
        frames = list(clip[list(shown)])
        for frame in frames:
            (x, y), font = (4, side - 5), cv2.FONT_HERSHEY_SIMPLEX
            # a white outline for dark clothes; bold letters would be wider in OpenCV 5
            for right, down in itertools.product((-1, 0, 1), repeat=2):
                place = x + right, y + down
                cv2.putText(frame, gloss, place, font, 0.32, (255,) * 3, 1, cv2.LINE_AA)
            cv2.putText(frame, gloss, (x, y), font, 0.32, (30,) * 3, 1, cv2.LINE_AA)
        return frames

    top = [draw(gloss, person, SHOWN[2:3])[0] for gloss, person in zip(LEXICON, people)]
    rows = [top]
    for i, gloss in enumerate(GLOSSES):
        pair = people[i % COLUMNS], people[(i + 3) % COLUMNS]
        rows.append([frame for person in pair for frame in draw(gloss, person, SHOWN)])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.avatar.sheet",
        description="Draw a contact sheet of the rendered signer.",
        epilog="example: python -m tfds_builders.avatar.sheet --out=avatar.png",
    )
    parser.add_argument(
        "--out",
        type=partial(picture_path, ends=(".png",)),
        default="docs/avatar.png",
        help="picture to write (default: %(default)s)",
    )
    out: Path = parser.parse_args(arguments).out
    if not cv2.imwrite(str(out), contact_sheet()[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"error: cannot write {out}")
    print(f"wrote {out}")


if __name__ == "__main__":
    set_up_output()
    main()
