"""The frames kept of a clip, and their pixels."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from sslssaw_jax.data.video import MAX_PIXELS, image_size
from sslssaw_jax.errors import UserError


class FrameError(UserError):
    """An error of a stored frame that names clip and frame."""


def select_frames(count: int, max_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """Return the indices of the frames kept of a clip, in order.

    Args:
        count: Frames of the clip.
        max_frames: The most that are kept.
        rng: Draws a random subset, for training; None takes the middles of `max_frames` equal parts.
    """
    if count <= max_frames:
        return np.arange(count)
    if rng is None:
        return (2 * np.arange(max_frames) + 1) * count // (2 * max_frames)
    return np.sort(rng.choice(count, max_frames, replace=False, shuffle=False))


def decode_frame(clip_id: str, video: Sequence[bytes], number: int) -> np.ndarray:
    """Decode one frame of a clip, u8[H, W, 3] in RGB.

    Raises:
        FrameError: The frame's bytes are not a readable image.
    """
    height, width = image_size(video[number]) or (0, 0)
    image = None
    if 0 < height * width <= MAX_PIXELS:  # before the pixels take memory
        image = cv2.imdecode(np.frombuffer(video[number], np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise FrameError(
            f"frame {number} of clip {clip_id} is not a readable JPEG: prepare the dataset again"
        )
    return image


def decode_frames(
    clip_id: str, video: Sequence[bytes], kept: Iterable[int], frames_NxHxWx3: np.ndarray
) -> None:
    """Decode the `kept` frames of a clip into `frames_NxHxWx3`.

    Raises:
        FrameError: A frame is broken or of another size than `frames_NxHxWx3`.
    """
    height, width = frames_NxHxWx3.shape[1:3]
    for place, number in enumerate(kept):
        image_HxWx3 = decode_frame(clip_id, video, number)
        if image_HxWx3.shape[:2] != (height, width):
            raise FrameError(
                f"frame {number} of clip {clip_id} has {image_HxWx3.shape[0]} x {image_HxWx3.shape[1]} "
                f"pixels, the first of the split {height} x {width}: prepare the dataset again with --resize"
            )
        frames_NxHxWx3[place] = image_HxWx3
