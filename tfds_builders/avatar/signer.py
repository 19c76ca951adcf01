"""Who signs: body, skin, clothing, hair, background, tempo and noise, all read off the signer's name."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tfds_builders.avatar.signs import PLACES, stable_seed

Colour = tuple[int, int, int]  # RGB

SKINS: tuple[Colour, ...] = (
    (250, 217, 190),
    (238, 190, 156),
    (219, 166, 126),
    (190, 130, 90),
    (148, 94, 62),
    (108, 68, 48),
)
HAIRS: tuple[Colour, ...] = (
    (38, 32, 34),
    (72, 48, 36),
    (120, 76, 44),
    (205, 165, 96),
    (150, 62, 36),
    (170, 168, 170),
)
HAIR_STYLES = ("short", "parted", "bob", "long", "bun", "curls")
CLOTHES: tuple[Colour, ...] = (
    (42, 58, 92),
    (48, 88, 78),
    (112, 46, 62),
    (78, 64, 116),
    (58, 60, 66),
    (30, 100, 116),
    (236, 232, 224),
    (176, 202, 222),
    (240, 205, 120),
    (190, 220, 190),
)
BACKGROUNDS: tuple[Colour, ...] = (
    (206, 222, 232),
    (196, 214, 200),
    (224, 212, 230),
    (150, 176, 206),
    (216, 206, 186),
    (128, 160, 164),
    (232, 196, 184),
    (168, 160, 190),
)


@dataclass(frozen=True)
class Signer:
    """Looks and habits of one signer; lengths in body units."""

    skin: Colour
    hair: Colour
    hair_style: str
    cloth: Colour
    short_sleeves: bool
    background: Colour
    scale: float
    shoulder: float  # half the distance between the shoulders
    head: float  # half the width of the head
    offset: tuple[float, float]  # of the body in the picture
    place_shift: dict[str, tuple[float, float]]  # where this signer puts each place
    amplitude: float  # of movements
    tempo: float  # duration of a sign relative to the average signer's
    noise: float  # standard deviation of the camera's noise, grey levels

    @classmethod
    @functools.cache
    def of(cls, name: int | str) -> "Signer":
        """The signer of any name; 3 and "3" are one person."""
        rng = np.random.default_rng(stable_seed("signer", name))
        skin, hair, background = _pick(SKINS, rng), _pick(HAIRS, rng), _pick(BACKGROUNDS, rng)
        # As interpreters dress: hands must stand out from the clothes behind them.
        cloth = _pick([cloth for cloth in CLOTHES if abs(luma(cloth) - luma(skin)) > 65], rng)
        shifts = rng.normal(0, 0.03, (len(PLACES), 2))
        return cls(
            skin=skin,
            hair=hair,
            hair_style=_pick(HAIR_STYLES, rng),
            cloth=cloth,
            short_sleeves=bool(rng.random() < 0.4),
            background=background,
            scale=rng.uniform(0.92, 1.06),
            shoulder=rng.uniform(0.34, 0.42),
            head=rng.uniform(0.205, 0.235),
            offset=(rng.uniform(-0.06, 0.06), rng.uniform(-0.03, 0.03)),
            place_shift={place: (float(x), float(y)) for place, (x, y) in zip(PLACES, shifts)},
            amplitude=rng.uniform(0.88, 1.12),
            tempo=rng.uniform(0.85, 1.2),
            noise=rng.uniform(1.0, 4.0),
        )


T = TypeVar("T")


def _pick(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


def luma(colour: Colour) -> float:
    """Perceived brightness, 0 to 255 (ITU-R BT.601)."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue
