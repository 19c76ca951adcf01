"""Rendering of glosses as frames."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from tfds_builders.avatar.arms import layers
from tfds_builders.avatar.body import paint_body
from tfds_builders.avatar.geometry import View, fill_convex
from tfds_builders.avatar.joints import joint_places
from tfds_builders.avatar.motion import Pose, poses
from tfds_builders.avatar.signer import Signer
from tfds_builders.avatar.signs import Sign, sign_of, stable_seed

FIELD = 2.2  # body units seen along the picture's shorter side


def render(
    glosses: Sequence[str],
    num_frames: int,
    *,
    signer: int | str | Signer,
    size: tuple[int, int],
    seed: int,
    lexicon: Mapping[str, Sign] | None = None,
    every: int = 1,
) -> np.ndarray:
    """Render a signer who signs the glosses, from rest to rest.

    Args:
        glosses: Any strings; the signs are spread over the frames, and without glosses the signer rests.
        num_frames: Number of frames, at least 1.
        signer: Any name or number, which is the same person in every clip, or a `Signer`.
        size: Height and width in pixels.
        seed: Seed of everything that differs between two takes: timing, small displacements, light, noise.
        lexicon: Signs of a closed set of glosses, see `distinct_signs`; other glosses use `sign_of`.
        every: 4 draws every fourth of the frames, from the first on; the others are not drawn.

    Returns:
        `uint8[T, height, width, 3]`, RGB, the same in every process for the same arguments.

    Raises:
        ValueError: `num_frames`, `every` or a side of `size` is below 1.
    """
    person, rng, pose, view = _stage(glosses, num_frames, signer, size, seed, lexicon, every)
    still = paint_body(person, size, view)
    moving = [(view.to_pixels(layer.polygons), layer.colour, layer.visible) for layer in layers(pose, person)]
    clip = np.empty((len(pose.hand), *size, 3), np.uint8)
    for t, frame in enumerate(clip):
        frame[:] = still
        for polygons, colour, visible in moving:
            if visible[t]:
                fill_convex(frame, polygons[t], colour)
    _develop(clip, person.noise, rng, every)
    return clip


def joints(
    glosses: Sequence[str],
    num_frames: int,
    *,
    signer: int | str | Signer,
    size: tuple[int, int],
    seed: int,
    lexicon: Mapping[str, Sign] | None = None,
    every: int = 1,
) -> np.ndarray:
    """Return the places of `JOINTS` in the frames that `render` draws.

    Arguments as for `render`.

    Returns:
        `float[T, len(JOINTS), 2]`, x and y as shares of the picture from its left and upper edge.
    """
    person, _, pose, view = _stage(glosses, num_frames, signer, size, seed, lexicon, every)
    return (view.places(joint_places(pose, person)) + 0.5) / size[::-1]


def _stage(
    glosses: Sequence[str],
    num_frames: int,
    signer: int | str | Signer,
    size: tuple[int, int],
    seed: int,
    lexicon: Mapping[str, Sign] | None,
    every: int,
) -> tuple[Signer, np.random.Generator, Pose, View]:
    """Return everything that a take needs before its pixels."""
    if min(num_frames, every, *size) < 1:
        raise ValueError(
            f"every {every} of {num_frames} frames of {size[0]}x{size[1]} pixels cannot be drawn"
        )
    known = lexicon or {}
    person = signer if isinstance(signer, Signer) else Signer.of(signer)
    rng = np.random.default_rng(stable_seed("clip", seed))
    pose = poses([known.get(gloss) or sign_of(gloss) for gloss in glosses], num_frames, person, rng)
    return person, rng, Pose(*(array[::every] for array in pose)), _view(person, size, rng)


def _view(signer: Signer, size: tuple[int, int], rng: np.random.Generator) -> View:
    height, width = size
    unit = min(size) / FIELD * signer.scale
    dx, dy = np.array(signer.offset) + rng.normal(0, 0.015, 2)
    # A third of a tall picture's extra height lies above the head; the rest shows more of the torso.
    top = max(0, height - width) / 3 + 0.12 * unit
    return View(unit, (width / 2 + dx * unit, top + dy * unit))


def _develop(clip: np.ndarray, noise: float, rng: np.random.Generator, every: int) -> None:
    """Add the take's brightness and each frame's camera noise, in place."""
    height, width = clip.shape[1:3]
    margin = 16  # one tile of noise serves all frames, each cut out at a different place
    tile = rng.standard_normal((height + margin, width + margin, 3), dtype=np.float32) * noise
    grain = np.rint(tile + rng.normal(0, 4)).astype(np.int16)
    # drawn for the left-out frames, too, so that a frame looks the same whatever `every` is
    places = rng.integers(0, margin + 1, (every * len(clip), 2))[::every]
    for frame, (y, x) in zip(clip, places):
        cv2.add(frame, grain[y : y + height, x : x + width], dst=frame, dtype=cv2.CV_8U)
