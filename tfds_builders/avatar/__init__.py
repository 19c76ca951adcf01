"""A rendered signer: any sequence of glosses becomes a clip."""

from tfds_builders.avatar.joints import JOINTS
from tfds_builders.avatar.renderer import joints, render
from tfds_builders.avatar.signer import Signer
from tfds_builders.avatar.signs import Sign, distinct_signs, sign_of

__all__ = ["JOINTS", "Sign", "Signer", "distinct_signs", "joints", "render", "sign_of"]
