"""Moving parts: arms with two joints, hands with five fingers, the mouth."""

from typing import NamedTuple

import numpy as np

from tfds_builders.avatar.body import MOUTH_Y, SHOULDER_Y
from tfds_builders.avatar.geometry import capsule, ellipse, shade
from tfds_builders.avatar.motion import SIDES, Pose
from tfds_builders.avatar.signer import Colour, Signer, luma

BONE = 0.50  # length of the upper arm and of the forearm
HAND_DEPTH = 0.30  # from the shoulders to the hands, towards the viewer
ELBOW_POLE = (-0.5, 1.0, 0.2)  # elbows hang down, out and a little forward; of the dominant arm
PALM, PALM_RADIUS = 0.11, 0.085  # from the wrist to the palm's centre; its radius
# Thumb to little finger: length, root along the palm from its centre, row across it (positive to the middle).
FINGERS = np.array([0.16, 0.19, 0.19, 0.19, 0.19])
KNUCKLES = np.array([-0.02, 0.03, 0.03, 0.03, 0.03])
ROWS = np.array([1.5, 1.5, 0.5, -0.5, -1.5])
ROW_GAP, FINGER_RADIUS, THUMB_ANGLE = 0.042, 0.030, 1.15
OUTLINE = 0.016


class Layer(NamedTuple):
    """A shape over time; layers are painted in order."""

    polygons: np.ndarray  # [T, P, 2] body units, convex
    colour: Colour
    visible: np.ndarray  # bool[T]


def layers(pose: Pose, signer: Signer) -> list[Layer]:
    """Return all moving shapes, from back to front."""
    return _mouth(pose, signer) + _arm(pose, signer, side=1) + _arm(pose, signer, side=0)


def elbow(shoulder_2: np.ndarray, wrist_Tx2: np.ndarray, side: int) -> np.ndarray:
    """Return the elbow's positions [T, 2] by two-bone inverse kinematics.

    The elbow lies on the circle that both bones reach, at the point farthest along `ELBOW_POLE`. A wrist out
    of reach stretches the arm.
    """
    reach_Tx3 = np.concatenate([wrist_Tx2 - shoulder_2, np.full((len(wrist_Tx2), 1), HAND_DEPTH)], axis=-1)
    distance_Tx1 = np.linalg.norm(reach_Tx3, axis=-1, keepdims=True)
    forward_Tx3 = reach_Tx3 / distance_Tx1
    pole = np.array(ELBOW_POLE) * (SIDES[side], 1, 1)
    aside_Tx3 = pole - forward_Tx3 * (forward_Tx3 @ pole)[:, None]
    aside_Tx3 /= np.linalg.norm(aside_Tx3, axis=-1, keepdims=True)
    height_Tx1 = np.sqrt((BONE**2 - (distance_Tx1 / 2) ** 2).clip(0))  # of the isosceles triangle
    return shoulder_2 + (forward_Tx3 * distance_Tx1 / 2 + aside_Tx3 * height_Tx1)[:, :2]


def shoulder(signer: Signer, side: int) -> np.ndarray:
    """Return the place of a shoulder, [2]."""
    return np.array([-signer.shoulder * SIDES[side], SHOULDER_Y])


def wrist(pose: Pose, side: int) -> np.ndarray:
    """Return a wrist's positions [T, 2]."""
    return pose.hand[:, side] - PALM * _pointing(pose.direction[:, side], side)


def fingers(pose: Pose, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the fingers' knuckles and tips, both [T, 5, 2]."""
    hand_Tx1x2, direction_Tx1 = pose.hand[:, side, None], pose.direction[:, side, None]
    along_Tx1x2 = _pointing(direction_Tx1, side)
    across_Tx1x2 = _pointing(direction_Tx1 + np.pi / 2, side)
    fan_Tx5 = ROWS * pose.spread[:, side, None]
    fan_Tx5[:, 0] = THUMB_ANGLE
    knuckle_Tx5x2 = hand_Tx1x2 + across_Tx1x2 * (ROW_GAP * ROWS)[:, None] + along_Tx1x2 * KNUCKLES[:, None]
    reach_Tx5x1 = (0.02 + pose.stretch[:, side] * FINGERS)[..., None]
    return knuckle_Tx5x2, knuckle_Tx5x2 + reach_Tx5x1 * _pointing(direction_Tx1 + fan_Tx5, side)


def lips(pose: Pose) -> np.ndarray:
    """Return the mouth's outline [T, 24, 2], clockwise from the right."""
    opening_T, width_T = pose.mouth.T
    lips_Tx24x2 = ellipse(np.zeros((len(opening_T), 2)), 1.0, 1.0)
    lips_Tx24x2[..., 1] *= np.where(lips_Tx24x2[..., 1] < 0, 0.5, 1.2)  # fuller below: a friendly face
    lips_Tx24x2 *= np.stack([0.055 + 0.03 * width_T, 0.013 + 0.045 * opening_T], axis=-1)[:, None]
    return lips_Tx24x2 + np.array((0.0, MOUTH_Y))


def _mouth(pose: Pose, signer: Signer) -> list[Layer]:
    red, green, blue = shade(signer.skin, 0.45)
    return [Layer(lips(pose), (red + 70, green + 10, blue + 15), np.ones(len(pose.mouth), bool))]


def _arm(pose: Pose, signer: Signer, side: int) -> list[Layer]:
    shoulder_2, wrist_Tx2 = shoulder(signer, side), wrist(pose, side)
    elbow_Tx2 = elbow(shoulder_2, wrist_Tx2, side)
    shoulder_Tx2 = np.broadcast_to(shoulder_2, wrist_Tx2.shape)

    # Sleeves contrast with the torso: darker on light clothes, lighter on dark clothes.
    sleeve = shade(signer.cloth, 0.92 if luma(signer.cloth) > 128 else 1.2)
    forearm = signer.skin if signer.short_sleeves else sleeve
    always = np.ones(len(wrist_Tx2), bool)
    painted = []
    for start, end, thick, thin, colour in (
        (shoulder_Tx2, elbow_Tx2, 0.095, 0.080, sleeve),
        (elbow_Tx2, wrist_Tx2, 0.078, 0.058, forearm),
    ):
        # The outline fades out towards the body, so that the limb seems to grow out of the body.
        painted.append(Layer(capsule(start, end, thick, thin + OUTLINE), shade(colour, 0.68), always))
        painted.append(Layer(capsule(start, end, thick, thin), colour, always))
    return painted + _hand(pose, signer, side, wrist_Tx2)


def _hand(pose: Pose, signer: Signer, side: int, wrist_Tx2: np.ndarray) -> list[Layer]:
    """Return all outlines, then all skin: palm and fingers form one shape."""
    hand_Tx2, along_Tx2 = pose.hand[:, side], _pointing(pose.direction[:, side], side)
    knuckle_Tx5x2, tip_Tx5x2 = fingers(pose, side)
    stretch_Tx5 = pose.stretch[:, side]

    layers = []
    for extra, colour in ((OUTLINE, shade(signer.skin, 0.58)), (0.0, signer.skin)):
        palm = capsule(wrist_Tx2, hand_Tx2 + 0.02 * along_Tx2, 0.055 + extra, PALM_RADIUS + extra)
        layers.append(Layer(palm, colour, np.ones(len(palm), bool)))
        fingers_Tx5xPx2 = capsule(knuckle_Tx5x2, tip_Tx5x2, FINGER_RADIUS + extra, FINGER_RADIUS + extra)
        for i, stretch_T in enumerate(stretch_Tx5.T):
            # a folded finger is within the palm
            layers.append(Layer(fingers_Tx5xPx2[:, i], colour, stretch_T > 0.15))
    return layers


def _pointing(direction: np.ndarray, side: int) -> np.ndarray:
    """Return unit vectors of directions in radians from upright to the middle."""
    return np.stack([np.sin(direction) * SIDES[side], -np.cos(direction)], axis=-1)
