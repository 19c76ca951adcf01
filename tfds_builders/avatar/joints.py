"""The keypoints of a drawn signer, under the names of COCO-WholeBody.

A drawn finger has a knuckle and a tip, and the drawn lips are one outline.
"""

import numpy as np

from tfds_builders.avatar.arms import elbow, fingers, lips, shoulder, wrist
from tfds_builders.avatar.body import EYE_Y, HEAD_Y
from tfds_builders.avatar.motion import SIDES, Pose
from tfds_builders.avatar.signer import Signer

_SIDES = ("right", "left")  # of the signer: side 0 is at the viewer's left
_KNUCKLES, _TIPS = (2, 5, 9, 13, 17), (4, 8, 12, 16, 20)  # of a hand's points; 0 is its wrist
_LIPS = {"face_48": 12, "face_54": 0, "face_62": 18, "face_66": 6}  # corners, middle above and below
JOINTS = (
    "nose",
    *(f"{side}_{part}" for part in ("eye", "ear", "shoulder", "elbow", "wrist") for side in _SIDES),
    *_LIPS,
    *(f"{side}_hand_{number}" for side in _SIDES for number in (0, *_KNUCKLES, *_TIPS)),
)


def joint_places(pose: Pose, signer: Signer) -> np.ndarray:
    """Return the points of `JOINTS` in body units, [T, K, 2]."""
    found: dict[str, np.ndarray] = {"nose": np.array([0.002, EYE_Y + 0.0475])}
    outline_Tx24x2 = lips(pose)
    found |= {name: outline_Tx24x2[:, corner] for name, corner in _LIPS.items()}
    for side, name in enumerate(_SIDES):
        outwards = -SIDES[side] * signer.head
        found[f"{name}_eye"] = np.array([0.42 * outwards, EYE_Y])
        found[f"{name}_ear"] = np.array([0.98 * outwards, HEAD_Y + 0.02])
        found[f"{name}_shoulder"] = shoulder(signer, side)
        found[f"{name}_wrist"] = found[f"{name}_hand_0"] = wrist(pose, side)
        found[f"{name}_elbow"] = elbow(shoulder(signer, side), wrist(pose, side), side)
        for numbers, places_Tx5x2 in zip((_KNUCKLES, _TIPS), fingers(pose, side)):
            found |= {f"{name}_hand_{n}": places_Tx5x2[:, i] for i, n in enumerate(numbers)}
    return np.stack([np.broadcast_to(found[name], (len(pose.hand), 2)) for name in JOINTS], axis=1)
