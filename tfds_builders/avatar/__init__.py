"""A rendered signer: any sequence of glosses becomes a clip."""

from tfds_builders.avatar.renderer import render
from tfds_builders.avatar.signer import Signer
from tfds_builders.avatar.signs import Sign, distinct_signs, sign_of

__all__ = ["Sign", "Signer", "distinct_signs", "render", "sign_of"]
