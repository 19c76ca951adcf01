"""Shapes as polygons in body units, painted with sub-pixel accuracy."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

Points = ArrayLike  # [..., 2]
_SHIFT = 4  # binary digits after the point in OpenCV's fixed-point coordinates


class View(NamedTuple):
    """A mapping from body units to pixels."""

    unit: float  # pixels
    origin: tuple[float, float]  # pixels, of the point (0, 0)

    def to_pixels(self, points: Points) -> np.ndarray:
        """Return fixed-point pixel coordinates, int32, that OpenCV draws with `_SHIFT`."""
        return np.rint(self.places(points) * (1 << _SHIFT)).astype(np.int32)

    def places(self, points: Points) -> np.ndarray:
        """Return pixel coordinates, whole numbers being the centres of pixels."""
        return np.asarray(points) * self.unit + self.origin


def capsule(a: Points, b: Points, radius_a: float, radius_b: float, corners: int = 8) -> np.ndarray:
    """Return the hull of two discs, [..., 2 * corners, 2]."""
    along = np.subtract(b, a)
    angle = np.arctan2(along[..., 1], along[..., 0])[..., None]
    half_turn = np.linspace(-np.pi / 2, np.pi / 2, corners)
    return np.concatenate(
        [
            arc(b, radius_b, radius_b, angle + half_turn),
            arc(a, radius_a, radius_a, angle + np.pi + half_turn),
        ],
        axis=-2,
    )


def arc(centre: Points, radius_x: float, radius_y: float, angles: np.ndarray) -> np.ndarray:
    """Return an ellipse's points at angles [..., P], clockwise from the right."""
    circle = np.stack([radius_x * np.cos(angles), radius_y * np.sin(angles)], axis=-1)
    return np.asarray(centre)[..., None, :] + circle


def ellipse(centre: Points, radius_x: float, radius_y: float) -> np.ndarray:
    """Return an ellipse, [..., 24, 2]."""
    return arc(centre, radius_x, radius_y, np.linspace(0, 2 * np.pi, 24, endpoint=False))


def fill(image: np.ndarray, polygon: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Paint a polygon given by `View.to_pixels`, with smooth edges."""
    cv2.fillPoly(image, [polygon], colour, cv2.LINE_AA, _SHIFT)


def fill_convex(image: np.ndarray, polygon: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Paint a convex polygon, faster than `fill`."""
    cv2.fillConvexPoly(image, polygon, colour, cv2.LINE_AA, _SHIFT)


def shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    """Return a darker (factor below 1) or lighter (above 1) colour."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue
