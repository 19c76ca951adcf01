"""Matroska files whose frames have arbitrary times, as from a phone: RFC 9559."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

RATE = 25  # stated by the file, whatever the times are


def _element(name: int, data: bytes) -> bytes:
    return (
        name.to_bytes((name.bit_length() + 7) // 8, "big") + (len(data) | 1 << 56).to_bytes(8, "big") + data
    )


def _number(name: int, value: int) -> bytes:
    return _element(name, value.to_bytes(8, "big"))


def write_matroska(path: Path, frames: Mapping[float, np.ndarray], codec: str = "V_MJPEG") -> None:
    """Write frames by their times in seconds, in order, as JPEG pictures, whatever the codec's name."""
    height, width = next(iter(frames.values())).shape[:2]
    video = _element(0xE0, _number(0xB0, width) + _number(0xBA, height))
    track = b"".join(
        [
            _number(0xD7, 1),
            _number(0x73C5, 1),
            _number(0x83, 1),  # video
            _number(0x23E383, 10**9 // RATE),
            _element(0x86, codec.encode()),
            video,
        ]
    )
    duration = np.array([1000 * max(frames) + 1000 / RATE], ">f8").tobytes()
    info = _number(0x2AD7B1, 10**6) + _element(0x4489, duration)  # times in milliseconds
    clusters = [
        _element(
            0x1F43B675, _number(0xE7, round(1000 * time)) + _element(0xA3, b"\x81\0\0\x80" + _jpeg(image))
        )
        for time, image in frames.items()
    ]
    body = _element(0x1549A966, info) + _element(0x1654AE6B, _element(0xAE, track)) + b"".join(clusters)
    path.write_bytes(_element(0x1A45DFA3, _element(0x4282, b"matroska")) + _element(0x18538067, body))


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()
