"""The parameters of a sign's phonology, each from a small table.

Any gloss has a sign, drawn by its hash; a closed set of glosses can have signs chosen far apart instead.
Lengths are in body units: the shoulders are about 0.8 apart, x grows to the viewer's right from the middle of
the face, y grows downwards from the top of the picture. The dominant hand is at the viewer's left.
"""

import hashlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PLACES = {
    "forehead": (-0.12, 0.24),
    "temple": (-0.42, 0.42),
    "chin": (-0.06, 0.70),
    "chest": (-0.05, 1.05),
    "heart": (0.35, 1.0),
    "shoulder": (-0.45, 0.85),
    "side": (-0.72, 1.05),
    "high": (-0.68, 0.30),
    "belly": (-0.05, 1.42),
    "hip": (-0.66, 1.50),
    "across": (0.60, 0.38),
}
MOVEMENTS = ("hold", "up", "down", "out", "in", "circle", "shake", "tap")


class Handshape(NamedTuple):
    """A handshape; a folded finger has stretch 0, a straight one 1."""

    stretch: tuple[float, float, float, float, float]
    spread: float  # radians between neighbouring fingers


HANDSHAPES = {
    "fist": Handshape((0.0, 0.0, 0.0, 0.0, 0.0), 0.0),
    "flat": Handshape((0.0, 1.0, 1.0, 1.0, 1.0), 0.0),
    "spread": Handshape((1.0, 1.0, 1.0, 1.0, 1.0), 0.42),
    "index": Handshape((0.0, 1.15, 0.0, 0.0, 0.0), 0.0),
    "vee": Handshape((0.0, 1.1, 1.1, 0.0, 0.0), 0.60),
    "ell": Handshape((1.2, 1.1, 0.0, 0.0, 0.0), 0.10),
    "horns": Handshape((0.0, 1.0, 0.0, 0.0, 1.0), 0.25),
}
DIRECTIONS = {"up": 0.0, "inward": 1.1, "outward": -0.7}  # of the fingers: radians from upright to the middle
HANDS = ("one", "mirrored", "base")  # the other hand rests, mirrors the dominant one, or lies under it
MOUTHS = {"closed": (0.0, 0.0), "open": (1.0, -0.2), "wide": (0.5, 1.0)}  # opening, width


@dataclass(frozen=True)
class Sign:
    """A sign; each field is a key of its table."""

    place: str
    movement: str
    handshape: str
    direction: str
    hands: str
    mouth: str


_CHOICES: tuple[Collection[str], ...] = (PLACES, MOVEMENTS, HANDSHAPES, DIRECTIONS, HANDS, MOUTHS)
_SALIENCE = np.array([2.0, 1.5, 1.2, 0.6, 1.5, 0.3])  # how visible a difference in each field is


def stable_seed(*parts: object) -> int:
    """Return a 64-bit seed, the same in every process (unlike `hash`)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def sign_of(gloss: str) -> Sign:
    """Return the sign of any gloss, drawn by the gloss's hash."""
    rng = np.random.default_rng(stable_seed("sign", gloss))
    return Sign(*(list(choices)[rng.integers(len(choices))] for choices in _CHOICES))


def distinct_signs(glosses: Sequence[str]) -> dict[str, Sign]:
    """Return signs that differ as much as possible for given glosses.

    Greedy farthest-point choice in weighted Hamming distance. Frequent choices count as nearer, which keeps
    all places, movements and handshapes about equally frequent.
    """
    sizes = [range(len(choices)) for choices in _CHOICES]
    candidates_CxF = np.random.default_rng(0).permutation(np.array(list(itertools.product(*sizes))))
    nearest_C = np.full(len(candidates_CxF), np.inf)
    crowding_C = np.zeros(len(candidates_CxF))
    signs: dict[str, Sign] = {}
    for gloss in dict.fromkeys(glosses):
        best = 0 if not signs else int(np.argmax(nearest_C - 0.5 * crowding_C / len(signs)))
        same_CxF = candidates_CxF == candidates_CxF[best]
        nearest_C = np.minimum(nearest_C, ~same_CxF @ _SALIENCE)
        crowding_C += same_CxF.sum(axis=1)
        fields = (list(choices)[i] for choices, i in zip(_CHOICES, candidates_CxF[best]))
        signs[gloss] = Sign(*fields)
    return signs
