"""A signer's looks and habits, drawn from the signer's name."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tfds_builders.avatar.signs import PLACES, stable_seed

Colour = tuple[int, int, int]  # RGB


def _palette(codes: str) -> tuple[Colour, ...]:
    """Return the colours of hexadecimal codes."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, codes.split()))


SKINS = _palette("fad9be eebe9c dba67e be825a 945e3e 6c4430")
HAIRS = _palette("262022 483024 784c2c cda560 963e24 aaa8aa")
HAIR_STYLES = ("short", "parted", "bob", "long", "bun", "curls")
CLOTHES = _palette("2a3a5c 30584e 702e3e 4e4074 3a3c42 1e6474 ece8e0 b0cade f0cd78 bedcbe")
BACKGROUNDS = _palette("cedee8 c4d6c8 e0d4e6 96b0ce d8ceba 80a0a4 e8c4b8 a8a0be")


@dataclass(frozen=True)
class Signer:
    """A signer's looks and habits; lengths are in body units."""

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
        """Return the signer of a name; 3 and "3" name one person."""
        rng = np.random.default_rng(stable_seed("signer", name))
        skin, hair, background = _pick(SKINS, rng), _pick(HAIRS, rng), _pick(BACKGROUNDS, rng)
        # Interpreters dress so that their hands stand out from the clothes.
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
    """Return perceived brightness, 0 to 255 (ITU-R BT.601)."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue
