"""Still parts of a clip, painted once: background, torso, neck, head, hair."""

import numpy as np

from tfds_builders.avatar.geometry import View, arc, capsule, ellipse, fill, shade
from tfds_builders.avatar.signer import Colour, Signer

HEAD_Y = 0.48
EYE_Y = 0.48
MOUTH_Y = 0.62
SHOULDER_Y = 0.96
_WHITE = (250, 250, 248)


def paint_body(signer: Signer, size: tuple[int, int], view: View) -> np.ndarray:
    """Return the signer without arms and mouth, `uint8[H, W, 3]`."""
    image = _background(signer, size)

    def paint(points: np.ndarray, colour: Colour) -> None:
        fill(image, view.to_pixels(points), colour)

    width, height = signer.head, signer.head * 1.22
    skin_shadow, hair_shadow = shade(signer.skin, 0.82), shade(signer.hair, 0.75)

    if signer.hair_style == "long":
        paint(capsule((0.0, HEAD_Y), (0.0, 0.86), width * 1.22, width * 1.32), hair_shadow)
    if signer.hair_style == "bob":
        paint(capsule((0.0, HEAD_Y - 0.02), (0.0, 0.58), width * 1.26, width * 1.24), hair_shadow)
    if signer.hair_style == "bun":
        paint(ellipse((0.0, HEAD_Y - height * 1.14), width * 0.48, width * 0.44), hair_shadow)
    if signer.hair_style == "curls":
        for angle in np.linspace(-1.15 * np.pi, 0.15 * np.pi, 10):
            curl = (width * 1.06 * np.cos(angle), HEAD_Y - 0.02 + height * np.sin(angle))
            paint(ellipse(curl, width * 0.36, width * 0.36), hair_shadow)

    paint(_torso(signer.shoulder), signer.cloth)
    paint(arc((0.0, 0.82), 0.155, 0.165, np.linspace(0, np.pi, 12)), shade(signer.cloth, 0.78))  # collar
    paint(capsule((0.0, 0.62), (0.0, 0.82), 0.095, 0.11), skin_shadow)
    paint(arc((0.0, 0.82), 0.12, 0.125, np.linspace(0, np.pi, 12)), skin_shadow)
    for side in (-1, 1):
        paint(ellipse((side * width * 0.98, HEAD_Y + 0.02), 0.035, 0.055), skin_shadow)
    paint(_face(width, height), signer.skin)
    paint(_fringe(signer, width, height), signer.hair)
    for side in (-1, 1):
        eye = (side * width * 0.42, EYE_Y)
        paint(ellipse((side * width * 0.56, EYE_Y + 0.085), 0.045, 0.032), _blush(signer.skin))
        paint(ellipse(eye, 0.038, 0.030), _WHITE)
        paint(ellipse(eye, 0.022, 0.027), (44, 34, 34))
        paint(_brow(eye), shade(signer.hair, 0.85))
    paint(capsule((0.0, EYE_Y + 0.03), (0.004, EYE_Y + 0.065), 0.010, 0.016), skin_shadow)
    return image


def _background(signer: Signer, size: tuple[int, int]) -> np.ndarray:
    """Return a wall that is a little darker towards the floor."""
    height, width = size
    light_Hx1x1 = np.linspace(1.04, 0.92, height)[:, None, None]
    wall = np.clip(np.array(signer.background) * light_Hx1x1, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(wall, (height, width, 3)))


def _torso(shoulder: float) -> np.ndarray:
    waist = shoulder * 0.92
    left = [(-waist, 4.0), (-waist, 1.6), (-shoulder - 0.02, 1.2), (-shoulder - 0.07, 1.02)]
    left += [(-shoulder - 0.065, 0.95), (-shoulder - 0.03, 0.90), (-shoulder + 0.04, 0.875), (-0.12, 0.82)]
    return np.array(left + [(-x, y) for x, y in reversed(left)])


def _face(width: float, height: float) -> np.ndarray:
    """Return an outline that is round above and narrows to the chin."""
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    outline = arc((0.0, HEAD_Y), width, height, angles)
    below = np.clip(np.sin(angles), 0, None)
    outline[:, 0] *= 1 - 0.16 * below**2
    return outline


def _fringe(signer: Signer, width: float, height: float) -> np.ndarray:
    """Return the hair between the top of the head and the hairline."""
    part = 0.3 * width if signer.hair_style in ("parted", "bob") else 0.0
    # how far the hair comes down at the temples
    ends = 0.02 if signer.hair_style in ("short", "parted") else 0.18
    top = arc((0.0, HEAD_Y), width * 1.08, height * 1.1, np.linspace(np.pi - ends, 2 * np.pi + ends, 20))
    hairline = arc((part, HEAD_Y + 0.01), width * 0.86, height * 0.62, np.linspace(2 * np.pi, np.pi, 16))
    hairline[:, 0] = hairline[:, 0].clip(-width * 0.9, width * 0.9)
    return np.concatenate([top, hairline])


def _brow(eye: tuple[float, float]) -> np.ndarray:
    x, y = eye
    return capsule((x - 0.038, y - 0.07), (x + 0.038, y - 0.07), 0.009, 0.009, corners=3)


def _blush(skin: Colour) -> Colour:
    red, green, blue = skin
    return round(0.9 * red + 22), round(0.9 * green + 8), round(0.9 * blue + 8)
