"""The parts that move: two arms of two joints each, hands with five fingers, the mouth."""

from typing import NamedTuple

import numpy as np

from tfds_builders.avatar.body import MOUTH_Y, SHOULDER_Y
from tfds_builders.avatar.geometry import capsule, ellipse, shade
from tfds_builders.avatar.motion import SIDES, Pose
from tfds_builders.avatar.signer import Colour, Signer, luma

UPPER_ARM, FOREARM = 0.50, 0.50
HAND_DEPTH = 0.30  # how far hands are before the shoulders, towards the viewer
ELBOW_POLE = (-0.5, 1.0, 0.2)  # elbows fall down, out and a little forward: the dominant one to the left
PALM, PALM_RADIUS = 0.11, 0.085  # from wrist to the palm's centre; its radius
FINGER, FINGER_RADIUS = 0.19, 0.030
OUTLINE = 0.016


class Layer(NamedTuple):
    """One shape over time; layers are painted in order."""

    polygons: np.ndarray  # [T, P, 2] body units, convex
    colour: Colour
    visible: np.ndarray  # bool[T]


def layers(pose: Pose, signer: Signer) -> list[Layer]:
    """All moving shapes, from back to front: mouth, then the other arm, then the dominant one."""
    return _mouth(pose, signer) + _arm(pose, signer, side=1) + _arm(pose, signer, side=0)


def elbow(shoulder_2: np.ndarray, wrist_Tx2: np.ndarray, side: int) -> np.ndarray:
    """Where the elbow is, [T, 2]: two-bone inverse kinematics in space, seen from the front.

    The elbow lies on the circle that both bones can reach, where that is farthest along `ELBOW_POLE`. Beyond
    reach the arm stretches.
    """
    reach_Tx3 = np.concatenate([wrist_Tx2 - shoulder_2, np.full((len(wrist_Tx2), 1), HAND_DEPTH)], axis=-1)
    distance_Tx1 = np.linalg.norm(reach_Tx3, axis=-1, keepdims=True)
    forward_Tx3 = reach_Tx3 / distance_Tx1
    pole = np.array(ELBOW_POLE) * (SIDES[side], 1, 1)
    aside_Tx3 = pole - forward_Tx3 * (forward_Tx3 @ pole)[:, None]
    aside_Tx3 /= np.linalg.norm(aside_Tx3, axis=-1, keepdims=True)
    height_Tx1 = np.sqrt((UPPER_ARM**2 - (distance_Tx1 / 2) ** 2).clip(0))  # of the isosceles triangle
    return shoulder_2 + (forward_Tx3 * distance_Tx1 / 2 + aside_Tx3 * height_Tx1)[:, :2]


def _mouth(pose: Pose, signer: Signer) -> list[Layer]:
    opening_T, width_T = pose.mouth.T
    lips_Tx24x2 = ellipse(np.zeros((len(opening_T), 2)), 1.0, 1.0)
    lips_Tx24x2[..., 1] *= np.where(lips_Tx24x2[..., 1] < 0, 0.5, 1.2)  # fuller below: a friendly face
    lips_Tx24x2 *= np.stack([0.055 + 0.03 * width_T, 0.013 + 0.045 * opening_T], axis=-1)[:, None]
    lips_Tx24x2 += (0.0, MOUTH_Y)
    red, green, blue = shade(signer.skin, 0.45)
    return [Layer(lips_Tx24x2, (red + 70, green + 10, blue + 15), np.ones(len(opening_T), bool))]


def _arm(pose: Pose, signer: Signer, side: int) -> list[Layer]:
    hand_Tx2, turn_T = pose.hand[:, side], pose.direction[:, side] * SIDES[side]
    pointing_Tx2 = np.stack([np.sin(turn_T), -np.cos(turn_T)], axis=-1)
    shoulder_2 = np.array([-signer.shoulder * SIDES[side], SHOULDER_Y])
    wrist_Tx2 = hand_Tx2 - PALM * pointing_Tx2
    elbow_Tx2 = elbow(shoulder_2, wrist_Tx2, side)
    shoulder_Tx2 = np.broadcast_to(shoulder_2, wrist_Tx2.shape)

    # Sleeves set off against the torso: darker on light clothes, lighter on dark ones.
    sleeve = shade(signer.cloth, 0.92 if luma(signer.cloth) > 128 else 1.2)
    forearm = signer.skin if signer.short_sleeves else sleeve
    always = np.ones(len(hand_Tx2), bool)
    bones = [
        (shoulder_Tx2, elbow_Tx2, 0.095, 0.080, sleeve),
        (elbow_Tx2, wrist_Tx2, 0.078, 0.058, forearm),
    ]
    painted = []
    for start, end, thick, thin, colour in bones:
        painted.append(Layer(capsule(start, end, thick, thin + OUTLINE), shade(colour, 0.68), always))
        painted.append(Layer(capsule(start, end, thick, thin), colour, always))
    return painted + _hand(pose, signer, side, wrist_Tx2, pointing_Tx2)


def _hand(
    pose: Pose, signer: Signer, side: int, wrist_Tx2: np.ndarray, pointing_Tx2: np.ndarray
) -> list[Layer]:
    hand_Tx2, turn_T = pose.hand[:, side], pose.direction[:, side] * SIDES[side]
    across_Tx2 = np.stack([-pointing_Tx2[:, 1], pointing_Tx2[:, 0]], axis=-1) * SIDES[side]
    palms = [(wrist_Tx2, hand_Tx2 + 0.02 * pointing_Tx2, 0.055, PALM_RADIUS, np.ones(len(hand_Tx2), bool))]
    fingers = []
    for i in range(5):
        stretch_T = pose.stretch[:, side, i]
        # The thumb leaves the palm's edge on the side of the middle; the others fan out from the knuckles.
        row = 1.5 - (i - 1) if i else 1.5
        fan_T = row * pose.spread[:, side] if i else 1.15 + 0 * stretch_T
        angle_T = turn_T + SIDES[side] * fan_T
        root_Tx2 = hand_Tx2 + across_Tx2 * (row * 0.042) + pointing_Tx2 * (0.03 if i else -0.02)
        length_T = stretch_T * (FINGER if i else 0.16) + 0.02
        tip_Tx2 = root_Tx2 + np.stack([np.sin(angle_T), -np.cos(angle_T)], axis=-1) * length_T[:, None]
        fingers.append((root_Tx2, tip_Tx2, FINGER_RADIUS, FINGER_RADIUS, stretch_T > 0.15))
    outline = shade(signer.skin, 0.58)
    parts = palms + fingers
    back = [
        Layer(capsule(a, b, thick + OUTLINE, thin + OUTLINE), outline, seen)
        for a, b, thick, thin, seen in parts
    ]
    front = [Layer(capsule(a, b, thick, thin), signer.skin, seen) for a, b, thick, thin, seen in parts]
    return back + front
