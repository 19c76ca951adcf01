"""The frames of the demo: a row rendered and encoded."""

from collections.abc import Callable

import cv2
import numpy as np

from sslssaw_jax.data.video import JPEG_QUALITY, ClipFrames
from tfds_builders.avatar import joints, render
from tfds_builders.avatar_qa.grammar import ISOLATED_FRAMES, ISOLATED_SHOWN, LEXICON, Row

FRAME_SIZE = (48, 48)
# half-resolution chroma would blur the hands in so small a picture
_SAMPLING = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
JPEG_OPTIONS = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *_SAMPLING)


def render_row(row: Row) -> np.ndarray:
    """Return the clip of a row, `uint8[row.num_frames, 48, 48, 3]`, RGB."""
    return _take(render, row)


def joints_of_row(row: Row) -> np.ndarray:
    """Return the places of `JOINTS` in a row's clip, [T, K, 2]."""
    return _take(joints, row)


def _take(draw: Callable[..., np.ndarray], row: Row) -> np.ndarray:
    clip = draw(
        row.sentence.glosses,
        ISOLATED_FRAMES if row.isolated else row.num_frames,
        signer=row.signer,
        size=FRAME_SIZE,
        seed=row.seed,
        lexicon=LEXICON,
    )
    return clip[ISOLATED_SHOWN] if row.isolated else clip


def render_clip(row: Row) -> ClipFrames:
    """Return the clip of a row as JPEG frames."""
    frames = (cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in render_row(row))
    return ClipFrames([cv2.imencode(".jpg", frame, JPEG_OPTIONS)[1].tobytes() for frame in frames])
