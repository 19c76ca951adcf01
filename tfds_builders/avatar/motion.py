"""The pose of each frame, from the signs and the signer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tfds_builders.avatar.signer import Signer
from tfds_builders.avatar.signs import DIRECTIONS, HANDSHAPES, MOUTHS, PLACES, Sign

# Duration of the transition between signs, relative to a sign's.
TRANSITION = 0.45
# Side 0 is the dominant hand, at the viewer's left; side 1 is its mirror image.
SIDES = np.array([1.0, -1.0])
REST_HAND = (-0.34, 1.74)
REST_FINGERS = ((0.6, 0.7, 0.7, 0.7, 0.7), 0.04)
REST_DIRECTION = 2.6
BASE_HAND = (0.26, 1.24)
BASE_DIRECTION = 1.3
AMPLITUDE = 0.26


class Pose(NamedTuple):
    """A sequence of T poses; side 0 is the dominant hand."""

    hand: np.ndarray  # [T, S, 2] centre of the palm, body units
    direction: np.ndarray  # [T, S] of the fingers: radians from upright to the middle
    stretch: np.ndarray  # [T, S, 5] of thumb to little finger
    spread: np.ndarray  # [T, S] radians between neighbouring fingers
    mouth: np.ndarray  # [T, 2] opening and width


# Displacement of the hand, in amplitudes, at time t of the sign in [0, 1]; x grows away from the middle. e is
# t eased at both ends, so that the hand starts and ends still and the blend into the neighbours is smooth.
_DISPLACEMENTS: dict[str, Callable[[np.ndarray, np.ndarray], tuple]] = {
    "hold": lambda t, e: (0 * t, 0 * t),
    "up": lambda t, e: (0 * t, 1 - 2 * e),
    "down": lambda t, e: (0 * t, 2 * e - 1),
    "out": lambda t, e: (2 * e - 1, 0 * t),
    "in": lambda t, e: (1 - 2 * e, 0 * t),
    "circle": lambda t, e: (0.9 * np.cos(2 * np.pi * e), 0.9 * np.sin(2 * np.pi * e)),
    "shake": lambda t, e: (0.8 * np.sin(4 * np.pi * t) * np.sqrt(np.sin(np.pi * t).clip(0)), 0 * t),
    "tap": lambda t, e: (0 * t, 0.8 * np.sin(2 * np.pi * t) ** 2),
}


def poses(signs: Sequence[Sign], num_frames: int, signer: Signer, rng: np.random.Generator) -> Pose:
    """Return the poses from rest through all signs to rest.

    Coarticulation: each pose is a weighted mean of two neighbouring signs; the weights change smoothly in the
    transition between the signs. A single frame shows the middle of the clip.
    """
    starts, ends = _schedule(len(signs), signer, rng)
    time_T = np.linspace(0, ends[-1], num_frames) if num_frames > 1 else np.array([ends[-1] / 2])
    # Transition k leads from element k to k + 1 of (rest, *signs, rest).
    arrived_KxT = _ease((time_T - ends[:-1, None]) / (starts[1:] - ends[:-1])[:, None])
    ones, zeros = np.ones((1, num_frames)), np.zeros((1, num_frames))
    weight_KxT = np.concatenate([ones, arrived_KxT]) - np.concatenate([arrived_KxT, zeros])

    rest = _rest(num_frames)
    elements = [rest]
    for sign, start, end in zip(signs, starts[1:-1], ends[1:-1]):
        progress_T = ((time_T - start) / (end - start)).clip(0, 1)
        elements.append(_signed(sign, progress_T, signer, rest, rng.normal(0, 0.03, 2)))
    elements.append(rest)
    mean = Pose(*(np.einsum("kt,kt...->t...", weight_KxT, np.stack(arrays)) for arrays in zip(*elements)))
    return mean._replace(hand=mean.hand + rng.normal(0, 0.008, mean.hand.shape))


def _schedule(num_signs: int, signer: Signer, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return start and end times of rest, all signs and rest."""
    hold_K = signer.tempo * rng.uniform(0.87, 1.13, num_signs)
    gap_K = np.full(num_signs + 1, TRANSITION) * rng.uniform(0.87, 1.13, num_signs + 1)
    ends, starts = [0.0], [0.0]
    for gap, hold in zip(gap_K, [*hold_K, 0.0]):
        starts.append(ends[-1] + gap)
        ends.append(starts[-1] + hold)
    return np.array(starts), np.array(ends)


def _signed(sign: Sign, progress_T: np.ndarray, signer: Signer, rest: Pose, jitter: np.ndarray) -> Pose:
    place = np.array(PLACES[sign.place]) + signer.place_shift[sign.place] + jitter
    # The viewer's left is negative x, so away from the middle is negative for the dominant hand.
    x_T, y_T = _DISPLACEMENTS[sign.movement](progress_T, _ease(progress_T))
    hand_Tx2 = place + AMPLITUDE * signer.amplitude * np.stack([-x_T, y_T], axis=-1)
    if sign.hands == "mirrored":
        hand_Tx2[:, 0] = hand_Tx2[:, 0].clip(max=-0.15)  # two hands need room side by side

    dominant, other = 0, 1
    pose = Pose(*(array.copy() for array in rest))
    shape = HANDSHAPES[sign.handshape]
    sides = (dominant, other) if sign.hands == "mirrored" else (dominant,)
    for side in sides:
        pose.hand[:, side] = hand_Tx2 * (SIDES[side], 1.0)
        pose.direction[:, side] = DIRECTIONS[sign.direction]
        pose.stretch[:, side] = shape.stretch
        pose.spread[:, side] = shape.spread
    if sign.hands == "base":
        pose.hand[:, other] = BASE_HAND
        pose.direction[:, other] = BASE_DIRECTION
        pose.stretch[:, other] = HANDSHAPES["flat"].stretch
        pose.spread[:, other] = HANDSHAPES["flat"].spread
    pose.mouth[:] = MOUTHS[sign.mouth]
    return pose


def _rest(num_frames: int) -> Pose:
    stretch, spread = REST_FINGERS
    hand_Sx2 = np.array(REST_HAND) * np.stack([SIDES, np.ones(2)], axis=-1)
    return Pose(
        hand=np.tile(hand_Sx2, (num_frames, 1, 1)),
        direction=np.full((num_frames, 2), REST_DIRECTION),
        stretch=np.tile(np.array(stretch), (num_frames, 2, 1)),
        spread=np.full((num_frames, 2), spread),
        mouth=np.tile(np.array(MOUTHS["closed"]), (num_frames, 1)),
    )


def _ease(t: np.ndarray) -> np.ndarray:
    """Return a step from 0 to 1, still at both ends."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
