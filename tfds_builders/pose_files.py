"""Poses as rows of numbers: `.pose` files (pose-format 0.1 and 0.2), and pickled keypoints `[T, 133, 3]`.

Coordinates of a `.pose` file become shares of the picture's width; a point that was not found is zero. Those
of keypoints stay in pixels.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

_OLD, _NEW = 0.1, 0.2


def read_pose(path: Path) -> np.ndarray:
    """Return the first person's points, f32[T, points * (axes + 1)].

    The confidence of a point stands behind its axes.

    Raises:
        ValueError: The file is damaged, of another version, or shows nobody.
    """
    data = path.read_bytes()
    try:
        return _read(_Reader(data))
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"it is not a .pose file, or ends too early ({error})") from error


def read_keypoints(found: Any) -> dict[str, np.ndarray]:
    """Return each clip's keypoints, [T, 399], of the unpickled dictionary.

    Raises:
        ValueError: The object is of another kind.
    """
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}; expected {{name: {{'keypoints': array}}}}")
    rows = {}
    for name, entry in found.items():
        points = entry.get("keypoints") if isinstance(entry, dict) else entry
        if not isinstance(points, np.ndarray) or points.ndim != 3:
            raise ValueError(f"{name} has no array 'keypoints' of the shape [T, points, 3]")
        rows[str(name)] = points.reshape(len(points), -1)
    return rows


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


def _read(reader: _Reader) -> np.ndarray:
    version = round(reader.numbers("f")[0], 3)
    if version not in (_OLD, _NEW):
        raise ValueError(f"it is not a .pose file of version {_OLD} or {_NEW} (version {version:g})")
    width, _, _, components = reader.numbers("HHHH")
    points, axes = 0, 0
    for _ in range(components):
        reader.text()  # its name
        axes = max(axes, len(reader.text()) - 1)  # such as XYZC, the confidence apart
        here, limbs, colours = reader.numbers("HHH")
        for _ in range(here):
            reader.text()
        reader.numbers(f"{2 * limbs + 3 * colours}H")
        points += here
    _, frames, people = reader.numbers("HHH" if version == _OLD else "fIH")
    numbers = np.frombuffer(reader.data, "<f4", offset=reader.place)
    a_frame = people * points * (axes + 1)
    if version == _OLD and a_frame:  # which counts frames in 16 bits
        frames = len(numbers) // a_frame
    if not a_frame or not frames or len(numbers) != frames * a_frame:
        raise ValueError(f"it holds {len(numbers):,} numbers for {frames:,} frames of {people} people")
    split = frames * people * points * axes
    places = numbers[:split].reshape(frames, people, points, axes)[:, 0]
    confidence = numbers[split:].reshape(frames, people, points, 1)[:, 0]
    found = np.where(confidence > 0, places / max(width, 1), 0)
    return np.concatenate([found, confidence], axis=-1).reshape(frames, -1)
