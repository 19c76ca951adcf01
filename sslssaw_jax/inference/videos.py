"""Videos of any kind, brought to the size and rate on which a model was trained."""

import warnings
from pathlib import Path

import numpy as np

from sslssaw_jax.data.clips import Clip
from sslssaw_jax.data.dataset import DatasetFacts
from sslssaw_jax.data.video import MAX_FRAMES, UNREADABLE, Resize, encode_frames, image_size, read_video
from sslssaw_jax.errors import UserError, listed
from sslssaw_jax.workdir import user_path

Video = str | Path | np.ndarray  # a file, a folder of frames, or u8[T, H, W, 3] in RGB
TOO_LONG = 2  # times as many frames as the model reads; up to this, frames are left out evenly


class VideoError(UserError):
    """An error about a video or a question that cannot be translated."""


class TooLongError(VideoError):
    """An error about a video of more seconds than allowed."""


def video_name(video: Video) -> str:
    """Return a video's name for messages."""
    return f"the array {list(video.shape)}" if isinstance(video, np.ndarray) else str(video)


def read_frames(video: Video, facts: DatasetFacts, most_frames: int = MAX_FRAMES) -> list[bytes]:
    """Return the frames of a video as preparation would store them.

    Args:
        video: A file, from which `facts.fps` frames per second are taken; or a folder of frames or an array,
            from which all are taken.
        facts: About the dataset on which the model was trained.
        most_frames: A file with more is refused.

    Raises:
        VideoError: The video is absent, unreadable, too long or empty, or of a size that the model does not
            know.
    """
    name, resize = video_name(video), Resize.parse(facts.resize)
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or not video.size:
            raise VideoError(
                f"{name} of {video.dtype} is not a video: give frames as uint8 of the shape "
                "[frames, height, width, 3], in RGB"
            )
        frames = encode_frames(video, resize)
    else:
        if not isinstance(video, (str, Path)):
            raise VideoError(
                f"a video is a path or an array, not {type(video).__name__}: write what was uploaded to a "
                "file"
            )
        path = user_path(video)
        if not path.exists():
            raise VideoError(f"there is no video {path}")
        read = read_video(path, resize, facts.fps, most_frames)
        if not read.video:
            error = TooLongError if read.too_long else VideoError
            raise error(f"{path} cannot be translated: {', '.join(read.odd) or 'no frames in it'}")
        gone = read.unreadable
        which = f": {len(gone)} of {len(gone) + len(read.video)}: {listed(file.name for file in gone)}"
        for oddity in read.odd:
            warnings.warn(f"{path}: {oddity}" + which * (oddity == UNREADABLE), stacklevel=4)
        frames = read.video
    for frame in frames:
        if (size := image_size(frame)) != facts.frame_size:
            raise VideoError(
                f"{name} has frames of {size} pixels (height, width), but the model was trained on "
                f"{facts.frame_size}, stored with --resize={facts.resize}: resize the video"
            )
    return frames


def make_clip(number: int, frames: list[bytes], question: str) -> Clip:
    """Return a clip to translate.

    Raises:
        VideoError: The question is not a text.
    """
    if not isinstance(question, str):
        raise VideoError(f"the question {question!r} is not a text")
    try:
        question.encode()
    except UnicodeEncodeError:  # an argument from a terminal with another encoding
        raise VideoError(f"the question {question!a} is not UTF-8: set the terminal to UTF-8") from None
    name = f"clip {number}"
    return Clip(
        id=name, num_frames=len(frames), question=question, target="", gloss="", signer="", video=frames
    )
