"""Poses: `.pose` files (pose-format 0.1 and 0.2), and pickled keypoints `[T, 133, 3]`.

As rows of numbers, coordinates of a `.pose` file become shares of the picture's width, and coordinates of
pickled keypoints stay in pixels; a point that was not found is zero. As keypoints, points have names, and
both coordinates are shares of the picture.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslssaw_jax.data.keypoints import COCO_WHOLEBODY
from sslssaw_jax.data.pickled_arrays import read_pickle
from sslssaw_jax.workdir import write_bytes

_OLD, _NEW = 0.1, 0.2
_OWN = "KEYPOINTS"  # a component whose points have the names of a keypoint set
_COMPONENTS = {  # of MediaPipe: the names of points
    _OWN: lambda number, name: name,
    "POSE_LANDMARKS": lambda number, name: name.lower(),
    "FACE_LANDMARKS": lambda number, name: f"mesh_{name}",
    "LEFT_HAND_LANDMARKS": lambda number, name: f"left_hand_{number}",
    "RIGHT_HAND_LANDMARKS": lambda number, name: f"right_hand_{number}",
}


class Keypoints(NamedTuple):
    """The keypoints of a clip."""

    name: str  # of the clip, maybe with its split
    points: tuple[str, ...]
    places: np.ndarray  # f32[T, points, 3]: x and y in pixels, score
    size: tuple[int, int] | None  # height and width of the picture, if the file says so


def read_pose(path: Path) -> np.ndarray:
    """Return the first person's points, f32[T, points * (axes + 1)].

    The confidence of a point comes after its axes.

    Raises:
        ValueError: The file is damaged, of another version, or shows nobody.
    """
    found = _read_file(path)
    places = np.where(found.confidence > 0, found.places / max(found.size[1], 1), 0)
    return np.concatenate([places, found.confidence], axis=-1).reshape(len(places), -1)


def read_keypoints(found: Any) -> dict[str, np.ndarray]:
    """Return each clip's keypoints, [T, 399], of the unpickled dictionary.

    Raises:
        ValueError: The object is of another kind.
    """
    return {name: points.reshape(len(points), -1) for name, points in _pickled(found)}


def read_named(path: Path) -> Iterator[Keypoints]:
    """Yield the keypoints of a `.pose` file, or of a pickle's clips.

    Raises:
        ValueError: The file is damaged, or a pickle has points other than COCO-WholeBody's.
    """
    if path.suffix == ".pose":
        found = _read_file(path)
        kept = [place for place, name in enumerate(found.points) if not name.startswith("POSE_WORLD_")]
        places = np.concatenate([found.places[:, kept, :2], found.confidence[:, kept]], axis=-1)
        points = tuple(found.points[place] for place in kept)
        yield Keypoints(f"{path.parent.name}/{path.stem}", points, places, found.size)
        return
    for name, places in _pickled(read_pickle(path)):
        if places.shape[1:] != (len(COCO_WHOLEBODY), 3):
            raise ValueError(
                f"{name} has keypoints of the shape {list(places.shape)}: expected [T, 133, 3], "
                "x, y and score of COCO-WholeBody"
            )
        half = np.array((0.5, 0.5, 0))  # the centre of the first pixel is 0 there
        yield Keypoints(name, COCO_WHOLEBODY, places + half, None)


def write_pose(path: Path, points: Sequence[str], places_TxKx2: np.ndarray, size: tuple[int, int]) -> None:
    """Write keypoints as a `.pose` file of version 0.2, 25 frames/s.

    Args:
        path: The file.
        points: The names of the points.
        places_TxKx2: Shares of the picture from its left and upper edge.
        size: Height and width of the picture in pixels.
    """

    def text(words: str) -> bytes:
        return struct.pack("<H", len(words)) + words.encode()

    height, width = size
    frames, count, _ = places_TxKx2.shape
    head = struct.pack("<fHHHH", _NEW, width, height, 0, 1) + text(_OWN) + text("XYC")
    head += struct.pack("<HHH", count, 0, 0) + b"".join(map(text, points))
    head += struct.pack("<fIH", 25, frames, 1)
    pixels = (places_TxKx2 * (width, height)).astype("<f4")
    write_bytes(path, head + pixels.tobytes() + np.ones((frames, count), "<f4").tobytes())


def _pickled(found: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and keypoints [T, points, 3] of an unpickled dictionary."""
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}; expected {{name: {{'keypoints': array}}}}")
    for name, entry in found.items():
        points = entry.get("keypoints") if isinstance(entry, dict) else entry
        if not isinstance(points, np.ndarray) or points.ndim != 3:
            raise ValueError(f"{name} has no array 'keypoints' of the shape [T, points, 3]")
        yield str(name), points


class _Pose(NamedTuple):
    """The first person of a `.pose` file."""

    size: tuple[int, int]  # height and width of the picture
    points: list[str]
    places: np.ndarray  # f32[T, points, axes], pixels
    confidence: np.ndarray  # f32[T, points, 1]


def _read_file(path: Path) -> _Pose:
    data = path.read_bytes()
    try:
        return _read(_Reader(data))
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"it is not a .pose file, or ends too early ({error})") from error


class _Reader:
    """A reader of little-endian numbers and texts."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return found

    def text(self) -> str:
        (length,) = self.numbers("H")
        return b"".join(self.numbers(f"{length}s")).decode()


def _read(reader: _Reader) -> _Pose:
    version = round(reader.numbers("f")[0], 3)
    if version not in (_OLD, _NEW):
        raise ValueError(f"it is not a .pose file of version {_OLD} or {_NEW} (version {version:g})")
    width, height, _, components = reader.numbers("HHHH")
    names, axes = [], 0
    for _ in range(components):
        component = reader.text()
        axes = max(axes, len(reader.text()) - 1)  # such as XYZC, without the confidence
        here, limbs, colours = reader.numbers("HHH")
        name_of = _COMPONENTS.get(component, lambda number, name, of=component: f"{of}/{name}")
        names += [name_of(number, reader.text()) for number in range(here)]
        reader.numbers(f"{2 * limbs + 3 * colours}H")
    points = len(names)
    _, frames, people = reader.numbers("HHH" if version == _OLD else "fIH")
    numbers = np.frombuffer(reader.data, "<f4", offset=reader.place)
    a_frame = people * points * (axes + 1)
    if version == _OLD and a_frame:  # it counts frames in 16 bits
        frames = len(numbers) // a_frame
    if not a_frame or not frames or len(numbers) != frames * a_frame:
        raise ValueError(f"it holds {len(numbers):,} numbers for {frames:,} frames of {people} people")
    split = frames * people * points * axes
    places = numbers[:split].reshape(frames, people, points, axes)[:, 0]
    confidence = numbers[split:].reshape(frames, people, points, 1)[:, 0]
    return _Pose((height, width), names, places, confidence)
