"""Keypoint sets: feature sets with the places of named points in every frame of a clip.

A row has x, y and score of each point. Places are shares of the stored frame from its left and its upper
edge; a point with the score 0 was not found. Points have the names of COCO-WholeBody, left and right being
the signer's own; the others are named by their estimator. The JSON of a split lists the names as `points`.
"""

from collections.abc import Sequence

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.dataset import Dataset, DatasetError, prepare_command
from sslssaw_jax.data.features import FeatureSet, find_features, import_command, set_names
from sslssaw_jax.errors import listed

AVATAR = "avatar"  # the set of a drawn signer's own joints
_SIDES = ("left", "right")
_PAIRS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
BODY = ("nose", *(f"{side}_{part}" for part in _PAIRS for side in _SIDES))
FEET = tuple(f"{side}_{part}" for side in _SIDES for part in ("big_toe", "small_toe", "heel"))
FACE = tuple(f"face_{number}" for number in range(68))
HANDS = tuple(f"{side}_hand_{number}" for side in _SIDES for number in range(21))
COCO_WHOLEBODY = BODY + FEET + FACE + HANDS


def find_keypoints(dataset: Dataset, name: str | None) -> FeatureSet | None:
    """Find a keypoint set, if one is named.

    Raises:
        DatasetError: There is no such set, or it has no named points.
    """
    if name is None:
        return None
    if name not in set_names(dataset):
        remedy = f"import one with `{import_command(dataset, name, 'keypoints')}`"
        if (dataset.name, name) == ("avatar_qa", AVATAR):  # it comes with the frames
            command = prepare_command(dataset.name, dataset.folder.parents[1])
            remedy = f"prepare the dataset again with `{command} --overwrite`"
        known = ", ".join(each for each in set_names(dataset) if _points(dataset, each)) or "none"
        raise DatasetError(f"{dataset.folder} has no keypoint set {name}; it has {known}: {remedy}")
    (found,) = find_features(dataset, [name])
    if not found.points or found.stride != 1 or found.width != 3 * len(found.points):
        raise DatasetError(
            f"the feature set {name} of {dataset.folder} has no named points: import them with "
            f"`{import_command(dataset, 'NAME', 'keypoints')}`, and set --config.data.keypoints=NAME"
        )
    return found


def _points(dataset: Dataset, name: str) -> tuple[str, ...]:
    try:
        return find_features(dataset, [name])[0].points
    except DatasetError:  # do not offer a damaged set
        return ()


def columns_of(points: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the places of wanted points in a set.

    Raises:
        ConfigError: The set lacks a wanted point.
    """
    if missing := [name for name in wanted if name not in points]:
        raise ConfigError(
            f"the set that config.data.keypoints names has no {', '.join(missing)}; it has "
            f"{listed(points, most=8)}: name a set with these points"
        )
    return [points.index(name) for name in wanted]
