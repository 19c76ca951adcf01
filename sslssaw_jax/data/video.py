"""From a video of any size and rate to JPEG frames of the wanted ones.

Preparation and the translation of new videos read with the same function, `read_video`.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from sslssaw_jax.errors import UserError

JPEG_QUALITY = 95
MAX_FRAMES = 4096  # of a video file: a clip is a sentence, and is held in memory as a whole
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG"
_MAX_PIXELS = 2**25  # four times those of 4K: a header that says more is broken

cv2.setNumThreads(1)  # the processes share the cores already
# unreadable files are reported with the clip's name; the libraries would print lines without one
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class OptionError(UserError):
    """An error of an option's value; the message names what is allowed."""


@dataclass(frozen=True)
class Resize:
    """A size of stored frames; a side of 0 keeps the size."""

    side: int = 256
    kind: str = ""  # "": both sides | "short": the short side | "crop": both sides, of the middle square

    @classmethod
    def parse(cls, text: str) -> "Resize":
        """Parse `none`, `256`, `short:256` (short side) or `crop:256` (middle square).

        Raises:
            OptionError: The text is something else.
        """
        if text == "none":
            return cls(side=0)
        match = re.fullmatch(r"(?:(short|crop):)?([1-9]\d*)", text)
        if not match:
            raise OptionError(f"resize is {text!r}; allowed: 256 (square), short:256, crop:256, none")
        return cls(int(match[2]), match[1] or "")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return a frame's height and width after resizing."""
        if not self.side:
            return height, width
        if self.kind != "short":
            return self.side, self.side
        scale = self.side / min(height, width)
        return round(height * scale), round(width * scale)


@dataclass(frozen=True)
class ClipFrames:
    """The JPEG frames of a clip, none if unusable, and its oddities."""

    video: list[bytes]
    odd: list[str] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)  # files of frames that are left out


def read_video(video: Path, resize: Resize, fps: float) -> ClipFrames:
    """Read a video as JPEG frames.

    Args:
        video: A folder of frames, all of which are taken, or a video file.
        resize: The size of the frames.
        fps: Frames per second taken from a video file, whatever its own rate.
    """
    return _read_file(video, resize, fps) if video.is_file() else _read_folder(video, resize)


def encode_frames(frames_TxHxWx3: np.ndarray, resize: Resize) -> list[bytes]:
    """Return RGB frames as images of the wanted size.

    Frames that have the size already are kept without loss, as PNG; others become JPEG, as in preparation.
    """
    encoded = []
    for frame in frames_TxHxWx3:
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        fitted = _fit(image, resize)
        encoded.append(cv2.imencode(".png", image)[1].tobytes() if fitted is image else _encode(fitted))
    return encoded


def list_frames(folder: Path) -> list[Path]:
    """Return the PNG or JPEG files in `folder` or `folder/1` in order."""
    for place in (folder, folder / "1"):
        if place.is_dir():
            files = [
                file
                for file in place.iterdir()
                if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and file.is_file()
            ]
            if files:
                return sorted(files, key=lambda file: (_numbers(file), file.name))
    return []


def to_jpeg(data: bytes, resize: Resize) -> bytes | None:
    """Return an image as JPEG of the wanted size, if possible.

    A JPEG of the wanted size is returned unchanged.
    """
    size = image_size(data)
    if not size or size[0] * size[1] > _MAX_PIXELS:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return None
    fitted = _fit(image, resize)
    return data if fitted is image and data.startswith(_JPEG_MAGIC) else _encode(fitted)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width in a PNG's or JPEG's header, if any."""
    try:
        if data.startswith(_PNG_MAGIC):
            width, height = struct.unpack_from(">II", data, 16)
            return height, width
        position = 2 if data.startswith(_JPEG_MAGIC) else len(data)
        while True:  # from segment to segment, to the one that begins a frame (ITU-T T.81, B.2.2)
            marker, length = struct.unpack_from(">HH", data, position)
            if marker == 0xFFFF:  # padding
                position += 1
            elif 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
                height, width = struct.unpack_from(">HH", data, position + 5)
                return height, width
            else:
                position += 2 + length
    except struct.error:
        return None


def _fit(image: np.ndarray, resize: Resize) -> np.ndarray:
    """Return the image in the wanted size; unchanged if it fits."""
    old_height, old_width = image.shape[:2]
    if resize.kind == "crop" and old_height != old_width:
        side = min(old_height, old_width)
        top, left = (old_height - side) // 2, (old_width - side) // 2
        return _fit(image[top : top + side, left : left + side], resize)
    height, width = resize.size(old_height, old_width)
    if (height, width) == (old_height, old_width):
        return image
    # INTER_AREA averages if a side shrinks, but repeats pixels if a side grows
    shrinks = height <= old_height and width <= old_width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _encode(image: np.ndarray) -> bytes:
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes()


def _read_folder(folder: Path, resize: Resize) -> ClipFrames:
    files = list_frames(folder)
    frames = {file: to_jpeg(file.read_bytes(), resize) for file in files}
    unreadable = [file for file, frame in frames.items() if frame is None]
    odd = ["frames unreadable, dropped"] * bool(unreadable)
    odd += ["frames absent between others"] * _has_gap(files)
    return ClipFrames([frame for frame in frames.values() if frame is not None], odd, unreadable)


def _read_file(path: Path, resize: Resize, fps: float) -> ClipFrames:
    """Read at each tick of `fps` the frame on the screen then.

    Frames are repeated or left out, never mixed. Only one decoded frame is held at a time.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    rate = capture.get(cv2.CAP_PROP_FPS)
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT) / rate if rate > 0 else 0.0  # seconds
    step = 1 / rate if 1 <= rate <= 1000 else 1 / fps
    video: list[bytes] = []
    last: np.ndarray | None = None
    end = 0.0
    for time, image in _decode(capture, step):
        end = time + step
        if _ticks(end, fps) > MAX_FRAMES:
            return ClipFrames([], [f"over {MAX_FRAMES} frames: cut it into sentences"])
        due = _ticks(time, fps) - len(video)
        if due > 0 and last is not None:
            video += [_encode(_fit(last, resize))] * due
        last = image
    if last is None:
        return ClipFrames([], ["no readable video"])
    if end < min(0.9 * announced, announced - 0.5):
        return ClipFrames([], ["video breaks off before its end"])
    video += [_encode(_fit(last, resize))] * max(_ticks(end, fps) - len(video), not video)
    return ClipFrames(video)


def _ticks(seconds: float, fps: float) -> int:
    """Return the number of ticks before a time.

    Each tick is a quarter of its interval late, so that a file whose rate is the same, half or double is read
    alike however it rounds its times.
    """
    return math.ceil(seconds * fps - 0.25)


def _decode(capture: cv2.VideoCapture, step: float) -> Iterator[tuple[float, np.ndarray]]:
    """Yield each frame with its time in seconds, by `step` without timestamps."""
    first = time = -step
    while capture.grab():
        good, image = capture.retrieve()
        if not good:
            continue
        stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if time < 0:
            first = stamp
        time = stamp - first if stamp - first > time else time + step
        yield time, image


def _numbers(file: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", file.stem))


def _has_gap(files: list[Path]) -> bool:
    """Return whether the files' numbering from 1 on has a gap."""
    numbers = [_numbers(file) for file in files]
    if not numbers or any(len(number) != 1 for number in numbers):
        return False
    first, last = min(1, numbers[0][0]), numbers[-1][0]
    return last - first + 1 > len(set(numbers))
