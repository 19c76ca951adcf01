"""From a folder of PNG or JPEG frames to JPEG frames of the wanted size."""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

JPEG_QUALITY = 95
UNREADABLE = "frames unreadable, dropped"
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG"
_MAX_PIXELS = 2**25  # four times that of 4K: a header that says more is broken

cv2.setNumThreads(1)  # the processes share the cores already


@dataclass(frozen=True)
class Resize:
    """The stored frames' size: a square of `side`, or the short side (`square=False`); 0 keeps the size."""

    side: int = 256
    square: bool = True

    @classmethod
    def parse(cls, text: str) -> "Resize":
        """From `none`, `256` (square) or `short:256` (short side).

        Raises:
          ValueError: anything else.
        """
        if text == "none":
            return cls(side=0)
        match = re.fullmatch(r"(short:)?([1-9]\d*)", text)
        if not match:
            raise ValueError(f"{text!r} is no size of frames; allowed: 256 (square), short:256, none")
        return cls(int(match[2]), square=match[1] is None)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a frame of this height and width gets."""
        if not self.side:
            return height, width
        if self.square:
            return self.side, self.side
        scale = self.side / min(height, width)
        return round(height * scale), round(width * scale)


@dataclass(frozen=True)
class ClipFrames:
    """A clip's JPEG frames in order, and in words what was odd about it."""

    video: list[bytes]
    odd: list[str]


def list_frames(folder: Path) -> list[Path]:
    """The frames of a clip in order: `folder/*.png` or `folder/1/*.png`, or JPEG; other files are ignored.

    An empty list where the folder is not there.
    """
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


def read_clip(folder: Path, resize: Resize) -> ClipFrames:
    """The frames of one clip as JPEG; those that are no image are left out."""
    files = list_frames(folder)
    frames = [to_jpeg(file.read_bytes(), resize) for file in files]
    video = [frame for frame in frames if frame is not None]
    odd = []
    if len(video) < len(frames):
        odd.append(UNREADABLE)
    if _count_absent(files):
        odd.append("frames absent between others")
    return ClipFrames(video, odd)


def unreadable_frames(folder: Path) -> list[Path]:
    """The frames of a clip that are no image."""
    keep = Resize(side=0)
    return [file for file in list_frames(folder) if to_jpeg(file.read_bytes(), keep) is None]


def to_jpeg(data: bytes, resize: Resize) -> bytes | None:
    """A frame as JPEG of the wanted size, or None where `data` is no image.

    A JPEG that has the wanted size already passes through unchanged.
    """
    size = image_size(data)
    if not size or size[0] * size[1] > _MAX_PIXELS:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return None
    old_height, old_width = image.shape[:2]
    height, width = resize.size(old_height, old_width)
    if (height, width) != (old_height, old_width):
        # INTER_AREA averages where a side shrinks, and repeats pixels where a side grows
        shrinks = height <= old_height and width <= old_width
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    elif data.startswith(_JPEG_MAGIC):
        return data
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes()


def image_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that the header of a PNG or JPEG names, None where it is none."""
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


def _numbers(file: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", file.stem))


def _count_absent(files: list[Path]) -> int:
    """Gaps in the release's numbering, images0001 onwards; frames cut off at the end leave no trace."""
    numbers = [_numbers(file) for file in files]
    if not numbers or any(len(number) != 1 for number in numbers):
        return 0
    first, last = min(1, numbers[0][0]), numbers[-1][0]
    return last - first + 1 - len(set(numbers))
