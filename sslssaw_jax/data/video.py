"""From a video of any size and rate to JPEG frames of the wanted size and rate.

Preparation and the translation of new videos use the same function, `read_video`.
"""

import codecs
import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from sslssaw_jax.errors import UserError, printable

JPEG_QUALITY = 95
MAX_FRAMES = 4096  # of a video file: a clip is a sentence, and is held in memory as a whole
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG"
MAX_PIXELS = 2**25  # four times as many as in 4K: a picture that claims or would have more is refused
_MAX_SIDE = 4096  # of stored frames
_FASTEST = 240  # decoded pictures per second of the longest clip, as phones film in slow motion
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")  # FFmpeg would open the files that they name
_SEEK_MARGIN = 10.0  # seconds; a seek may land after the requested time

cv2.setNumThreads(1)  # the processes already share the cores
# unreadable files are reported with the clip's name; the libraries would print lines without one
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class OptionError(UserError):
    """An error in an option's value; the message names what is allowed."""


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
        if not match or len(match[2]) > 4 or int(match[2]) > _MAX_SIDE:
            raise OptionError(
                f"resize is {text!r}; allowed: 256 (square), short:256, crop:256, none, at most {_MAX_SIDE}"
            )
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
class Segment:
    """A part of a video file, such as a sentence of a long recording."""

    path: Path
    start: float  # in seconds
    end: float

    def __str__(self) -> str:
        return f"{self.path} from {self.start:g} to {self.end:g} s"


UNREADABLE = "frames unreadable, dropped"


@dataclass(frozen=True)
class ClipFrames:
    """The JPEG frames of a clip, or none if unusable, and its oddities."""

    video: list[bytes]
    odd: list[str] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)  # frame files that are left out
    too_long: bool = False


def read_video(
    video: Path | Segment, resize: Resize, fps: float, most_frames: int = MAX_FRAMES
) -> ClipFrames:
    """Read a video as JPEG frames.

    Args:
        video: A folder of frames, which are all taken, a video file, or a part of one.
        resize: The size of the frames.
        fps: Frames per second taken from a video file, whatever its own rate.
        most_frames: A video file with more is not read to its end, and gives none.
    """
    segment = video if isinstance(video, Segment) else Segment(video, 0.0, math.inf)
    if segment.path.is_file():
        return _read_file(segment, resize, fps, most_frames)
    if segment is video:
        return ClipFrames([], ["start and end need a video file"])
    return _read_folder(segment.path, resize)


def encode_frames(frames_TxHxWx3: np.ndarray, resize: Resize) -> list[bytes]:
    """Return RGB frames as images of the wanted size.

    Frames that already have the size are kept without loss, as PNG; others become JPEG, as in preparation.
    """
    encoded = []
    for frame in frames_TxHxWx3:
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        fitted = _fit(image, resize)
        encoded.append(cv2.imencode(".png", image)[1].tobytes() if fitted is image else _encode(fitted))
    return encoded


def list_frames(folder: Path) -> list[Path]:
    """Return the pictures in a folder or its only subfolder, in order."""
    if not folder.is_dir():
        return []
    files = _pictures(folder)
    if not files:
        below = [found for place in folder.iterdir() if place.is_dir() and (found := _pictures(place))]
        files = below[0] if len(below) == 1 else []
    return sorted(files, key=lambda file: (_numbers(file), file.name))


def _pictures(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # knows what is a file without a further call for each
        return [
            folder / entry.name
            for entry in entries
            if entry.name.lower().endswith(_SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
        ]


def to_jpeg(data: bytes, resize: Resize) -> bytes | None:
    """Return an image as JPEG of the wanted size, if possible.

    A JPEG of the wanted size is returned unchanged, unless its Exif data may turn it.
    """
    size = image_size(data)
    if not size or not _is_reasonable(*size, resize):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return None
    fitted = _fit(image, resize)
    unchanged = fitted is image and data.startswith(_JPEG_MAGIC) and b"Exif\0" not in data
    return data if unchanged else _encode(fitted)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width in the header of a picture, if any.

    A PNG with a chunk that is longer than the file has none.
    """
    try:
        if data.startswith(_PNG_MAGIC):
            kind, position = b"", 8
            while kind != b"IEND":  # OpenCV reserves what a chunk claims, up to 4 GB, and then misses it
                length, kind = struct.unpack_from(">I4s", data, position)
                position += 12 + length
            width, height = struct.unpack_from(">II", data, 16)
            return (height, width) if position <= len(data) else None
        if data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(height), abs(width)  # a negative height means that rows go down
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        position = 2 if data.startswith(_JPEG_MAGIC) else len(data)
        while True:  # from segment to segment, up to the one that begins a frame (ITU-T T.81, B.2.2)
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


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width in a WebP's first chunk (RFC 9649)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[place : place + 3], "little") + 1 for place in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return height, width


def _is_reasonable(height: int, width: int, resize: Resize) -> bool:
    """Return whether a picture and its resized copy fit into memory."""
    if height <= 0 or width <= 0 or height * width > MAX_PIXELS:
        return False
    new_height, new_width = resize.size(height, width)
    return new_height * new_width <= MAX_PIXELS


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
    if _repeats(files):
        return ClipFrames([], ["two files of one frame number"])
    frames = {file: to_jpeg(file.read_bytes(), resize) for file in files}
    unreadable = [file for file, frame in frames.items() if frame is None]
    odd = [UNREADABLE] * bool(unreadable)
    odd += ["frames absent between others"] * _has_gap(files)
    odd += _odd_names(files)
    return ClipFrames([frame for frame in frames.values() if frame is not None], odd, unreadable)


def _read_file(segment: Segment, resize: Resize, fps: float, most_frames: int) -> ClipFrames:
    """Read the frame that is on screen at each tick of `fps`.

    Frames are repeated or left out, never blended. Only a few decoded frames are held at a time.
    """
    try:
        str(segment.path.absolute()).encode()
    except UnicodeEncodeError:  # OpenCV would end the process
        return ClipFrames([], ["its path is not UTF-8: rename it"])
    if _is_playlist(segment.path):
        return ClipFrames([], ["it is a playlist: name the video file itself"])
    # FFmpeg would take `10:15.mp4` for a protocol, but not an absolute path
    capture = cv2.VideoCapture(str(segment.path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # as a phone was held; OpenCV 4.11 does so only if asked
    height, width = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    if capture.isOpened() and not _is_reasonable(height, width, resize):
        return ClipFrames([], ["frames of too many pixels"])
    rate = capture.get(cv2.CAP_PROP_FPS)
    total = capture.get(cv2.CAP_PROP_FRAME_COUNT) / rate if rate > 0 else 0.0  # seconds
    announced = (segment.end if segment.end < math.inf else total) - segment.start
    step = 1 / rate if 1 <= rate <= 1000 else 1 / fps
    video: list[bytes] = []
    last: np.ndarray | None = None
    end = 0.0
    most_decoded = math.ceil(most_frames / fps * _FASTEST)
    for decoded, (seconds, image) in enumerate(_decode_from(capture, segment.start, step), 1):
        time = max(seconds - segment.start, 0.0)
        end = min(seconds + step, segment.end) - segment.start
        if _ticks(end, fps) > most_frames:
            seconds_read = f"{most_frames / fps:.1f} seconds"
            odd = f"over {most_frames} frames ({seconds_read}): cut it into sentences"
            return ClipFrames([], [odd], too_long=True)
        if decoded > most_decoded:
            return ClipFrames([], [f"over {most_decoded} pictures: `ffmpeg -i OLD -r {fps:g} NEW.mp4`"])
        if seconds >= segment.end:
            break
        due = _ticks(time, fps) - len(video)
        if due > 0 and last is not None:
            video += [_encode(_fit(last, resize))] * due
        last = image
    if last is None:
        behind = 0 < total <= segment.start
        why = _undecodable(capture) if total > 0 else "no readable video"
        return ClipFrames([], ["starts after the video's end" if behind else why])
    if end < min(0.9 * announced, announced - 0.5):
        return ClipFrames([], ["video breaks off before its end"])
    video += [_encode(_fit(last, resize))] * max(_ticks(end, fps) - len(video), not video)
    return ClipFrames(video)


def _is_playlist(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16).removeprefix(codecs.BOM_UTF8).startswith(_PLAYLISTS)
    except OSError:  # which OpenCV cannot open either
        return False


def _undecodable(capture: cv2.VideoCapture) -> str:
    """Return why no frame was decoded from a place on."""
    capture.set(cv2.CAP_PROP_POS_MSEC, 0.0)
    if capture.read()[0]:
        return "video breaks off before its end"
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1")
    command = "ffmpeg -i OLD.mp4 -c:v libx264 -pix_fmt yuv420p NEW.mp4"
    return (
        f"no frame can be decoded: it is damaged, or its codec {printable(codec)} is not known here: convert "
        f"it to H.264 (`{command}`)"
    )


def _ticks(seconds: float, fps: float) -> int:
    """Return the number of ticks before a time.

    Each tick is a quarter of its interval late, so that a file whose rate is the same, half or double is read
    the same way however it rounds its times.
    """
    return math.ceil(seconds * fps - 0.25)


def _decode_from(capture: cv2.VideoCapture, start: float, step: float) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the frames that are on screen from a time on."""
    seeks = start > _SEEK_MARGIN
    if seeks:
        capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * (start - _SEEK_MARGIN))
        found = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 if capture.grab() else 0.0
        if not 0 < found <= start:  # the file has no timestamps, or a seek misses
            capture.set(cv2.CAP_PROP_POS_MSEC, 0.0)
            seeks = False
    before: tuple[float, np.ndarray] | None = None
    for time, image in _decode(capture, step, inside=seeks):
        if time <= start + 1e-6:
            before = time, image
            continue
        if before:  # stays on screen until the next, for a long time in a file of varying rate
            yield before
            before = None
        yield time, image
    if before and before[0] + step > start + 1e-6:
        yield before


def _decode(capture: cv2.VideoCapture, step: float, *, inside: bool) -> Iterator[tuple[float, np.ndarray]]:
    """Yield each frame with its time in seconds, counted if without timestamps.

    Args:
        capture: Of the file.
        step: Seconds between two frames.
        inside: Whether a frame inside the file is grabbed; otherwise the capture is at its start.
    """
    time, first = -step, 0.0 if inside else None
    while inside or capture.grab():
        inside = False
        good, image = capture.retrieve()
        if not good:
            continue
        stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        first = stamp if first is None else first
        time = stamp - first if stamp - first > time else time + step
        yield time, image


def _numbers(file: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", file.stem))


def _repeats(files: list[Path]) -> bool:
    """Return whether two files have the same number, like `1.png` and `01.jpg`."""
    numbers = [_numbers(file) for file in files]
    return all(len(number) == 1 for number in numbers) and len(set(numbers)) < len(numbers)


def _has_gap(files: list[Path]) -> bool:
    """Return whether the files' numbering from 1 on has a gap."""
    numbers = [_numbers(file) for file in files]
    if not numbers or any(len(number) != 1 for number in numbers):
        return False
    first, last = min(1, numbers[0][0]), numbers[-1][0]
    return last - first + 1 > len(set(numbers))


def _odd_names(files: list[Path]) -> list[str]:
    """Return what is odd about the names of frames."""
    several_kinds = len({len(_numbers(file)) for file in files}) > 1
    times = any(re.search(r"\d[.,]\d", file.stem) for file in files)
    odd = ["files of several kinds (copies, thumbnails?) read as frames"] * several_kinds
    return odd + ["decimal numbers as file names (times?), so the order may be wrong"] * times
