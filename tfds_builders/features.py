"""Import published features, or your own, into a prepared dataset.

    python -m tfds_builders.features --format=signjoey --name=pami0 --dataset=phoenix2014t_qa phoenix14t.*

`DATA_DIR/DATASET/VERSION/features/NAME/` then holds a row of numbers for every few frames of each clip, which
a run reads in place of frames: `--config.data.features=NAME`. The folder appears by a single rename. The
format `keypoints` writes places of named points, which a run reads in addition to frames:
`--config.data.keypoints=NAME`.
"""

import argparse
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sslssaw_jax.data.dataset import DatasetError, DatasetFacts, find_dataset
from sslssaw_jax.data.feature_writer import FeatureWriter
from sslssaw_jax.data.pickled_arrays import read_pickle, read_torch
from sslssaw_jax.data.video import Resize
from sslssaw_jax.errors import UserError, ends_in_one_line, listed, set_up_output
from sslssaw_jax.workdir import describe, user_path
from tfds_builders.frame_size import frame_size
from tfds_builders.pose_files import Keypoints, read_keypoints, read_named, read_pose

Clips = Iterable[tuple[str, np.ndarray]]  # names and rows


class FeatureError(UserError):
    """An error about a file of features, which names the file."""


class Format(NamedTuple):
    """A format of features: its files, and how they were made unless the user says otherwise."""

    help: str
    read: Callable[[Path], Clips]  # of one file
    ends: tuple[str, ...] = ()  # of the files that are taken from a folder; empty: no folder is taken
    stride: int = 1
    most_frames: int | None = None  # longer clips were cut when the features were made
    any_stride: bool = False  # files of all strides look alike


def _read_pack(path: Path) -> Clips:
    """Yield the clips of a pickled list of dictionaries."""
    found = read_pickle(path)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"it holds a {type(found).__name__}; expected a list of dictionaries")
    for number, row in enumerate(found, start=1):
        name, rows = row.get("name"), row.get("sign")
        if not isinstance(name, str) or not isinstance(rows, np.ndarray):
            raise ValueError(
                f"entry {number} has no 'name' and tensor 'sign', but {', '.join(map(str, row))}"
            )
        yield name, rows


def _read_tspnet(path: Path) -> Clips:
    found = read_torch(path)
    parts = found if isinstance(found, list) else [found]
    if not parts or not all(isinstance(part, np.ndarray) for part in parts):
        raise ValueError("it holds no list of tensors")
    yield _clip_name(path), np.concatenate([np.atleast_2d(part) for part in parts])


def _read_npy(path: Path) -> Clips:
    try:
        rows = np.load(path, allow_pickle=False)
    except (EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is empty or cut off: {error}") from error
    yield _clip_name(path), rows


def _read_poses(path: Path) -> Clips:
    if path.suffix == ".pose":
        return [(_clip_name(path), read_pose(path))]
    return read_keypoints(read_pickle(path)).items()


def _shares(found: Keypoints, size: tuple[int, int] | None, resize: Resize) -> np.ndarray:
    """Return the rows of a clip's keypoints, shares of the stored frame.

    Args:
        found: The clip's keypoints.
        size: Height and width of the pictures on which they were found, if the user gives them.
        resize: How the pictures became stored frames.

    Raises:
        FeatureError: The size of the pictures is not known.
    """
    if not (size or found.size):
        raise FeatureError("the file does not say how large its pictures are: add --size=WIDTHxHEIGHT")
    height, width = size or found.size  # type: ignore[misc]
    x_TxK, y_TxK, score_TxK = np.moveaxis(found.places, -1, 0)
    high, wide, top, left = float(height), float(width), 0.0, 0.0
    if resize.kind == "crop":  # the middle square
        high = wide = float(min(height, width))
        top, left = float((height - min(height, width)) // 2), float((width - min(height, width)) // 2)
    shares_TxKx2 = np.stack([(x_TxK - left) / wide, (y_TxK - top) / high], axis=-1)
    found_TxKx1 = score_TxK[..., None] > 0
    rows = np.concatenate([np.where(found_TxKx1, shares_TxKx2, 0), score_TxK[..., None]], axis=-1)
    return rows.reshape(len(rows), -1)


def _scores_far_outside(found: Keypoints, size: tuple[int, int]) -> np.ndarray:
    """Sum the scores of points far outside, and of all, f[2].

    Far is more than a tenth of the picture beyond its edge.
    """
    x_TxK, y_TxK, score_TxK = np.moveaxis(found.places, -1, 0)
    score_TxK = np.maximum(score_TxK, 0)  # estimators guess legs below the picture, with scores near 0
    far_TxK = (abs(x_TxK / size[1] - 0.5) > 0.6) | (abs(y_TxK / size[0] - 0.5) > 0.6)
    return np.array([score_TxK[far_TxK].sum(), score_TxK.sum()])


def _clip_name(path: Path) -> str:
    """Return a clip's name, preceded by its folder."""
    return f"{path.parent.name}/{path.name.removesuffix(path.suffix)}"


FORMATS = {
    "signjoey": Format(
        "packed files of neccam/slt and GASLT, such as phoenix14t.pami0.train", _read_pack, any_stride=True
    ),
    "slrt": Format("FangyunWei/SLRT's head_rgb_input/train.pkl", _read_pack, stride=4, most_frames=400),
    "tspnet": Format(
        "verashira/TSPNet's folder span=8_stride=2 of .pt files", _read_tspnet, (".pt",), stride=2
    ),
    "npy": Format(
        "a folder of CLIP.npy or SPLIT/CLIP.npy, each [rows, numbers]", _read_npy, (".npy",), any_stride=True
    ),
    "pose": Format(
        "a folder of CLIP.pose files, or pickled keypoints {clip: {'keypoints': [T, 133, 3]}}",
        _read_poses,
        (".pose",),
    ),
    "keypoints": Format(
        "as pose, for --config.data.keypoints; pickles of COCO-WholeBody's 133 points need --size",
        _read_poses,
        (".pose",),
    ),
}


def import_features(
    kind: str,
    files: Sequence[Path],
    *,
    name: str,
    dataset: str,
    data_dir: Path,
    stride: int = 0,
    span: int = 0,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> None:
    """Import files as a feature set, whole or not at all.

    Args:
        kind: One of `FORMATS`.
        files: The files, or folders of them.
        name: Of the set.
        dataset: Of a prepared dataset.
        data_dir: The folder of all prepared datasets.
        stride: Frames from one row to the next; 0: from the format or the folder's name.
        span: Frames that a row looks at; 0: from the same, otherwise the stride.
        size: Height and width of the pictures on which keypoints were found; None: as in their files, or
            like the dataset's frames if these are stored unchanged.
        overwrite: Whether a set of this name is replaced.

    Raises:
        UserError: A file is unreadable, or its features do not fit the clips of the dataset.
    """
    form = FORMATS[kind]
    paths = list(_files(form, files))
    said = {key: int(number) for key, number in re.findall(r"(span|stride)=(\d+)", str(paths[0].parent))}
    guessed = form.any_stride and not (stride or "stride" in said)
    stride = stride or said.get("stride", form.stride)
    span = span or said.get("span", stride)
    if min(stride, span) < 1:
        raise FeatureError(f"--stride={stride} and --span={span} must be positive")
    unknown: list[str] = []
    found_dataset, read = find_dataset(data_dir, dataset), form.read
    points: tuple[str, ...] = ()
    if kind == "keypoints":
        read, points = _named_reader(paths[0], size, found_dataset.facts)
    elif size:
        raise FeatureError(f"--size is for --format=keypoints, not {kind}")
    with FeatureWriter(
        found_dataset,
        name,
        stride=stride,
        span=span,
        source=f"{kind}: {listed(path.name for path in paths)}",
        points=points,
        most_frames=form.most_frames,
        overwrite=overwrite,
        resume=False,  # files may have changed
    ) as writer:
        counts = (clip.num_frames for clips in writer.clips.values() for clip in clips.values())
        if guessed and not all(counts):
            raise FeatureError(
                f"{found_dataset.folder} has no frames whose number would show how many of them a row stands "
                f"for, and --format={kind} does not say: add --stride, 1 if each frame has a row"
            )
        for path in tqdm(paths, "importing", unit="file", leave=False, disable=None):
            try:
                for clip_name, rows in read(path):
                    if found := writer.find(clip_name):
                        writer.add(*found, rows)
                    else:
                        unknown.append(clip_name)
            except (ValueError, TypeError, OSError, DatasetError, FeatureError) as error:
                raise FeatureError(f"{path}: {_reason(path, error)}") from error
        clips = writer.finish()
    shown = ", ".join(f"{count:,} clips of {split}" for split, count in clips.items())
    width = f"{len(points)} points" if points else f"{writer.found.width:,} numbers a row, stride {stride}"
    print(f"{name}: {shown}, {width}: --config.data.{'keypoints' if points else 'features'}={name}")
    if unknown:
        print(f"odd: {len(unknown):,} clips are not in {dataset}: {listed(unknown)}")


def _named_reader(
    first: Path, size: tuple[int, int] | None, facts: DatasetFacts
) -> tuple[Callable[[Path], Clips], tuple[str, ...]]:
    """Return a reader of keypoint files, and the first file's points.

    Raises:
        FeatureError: A file is unreadable, has other points than the first, or more than 5 % of its points
            outside pictures of this size.
    """
    resize = Resize.parse(facts.resize)
    size = size or (facts.frame_size if not resize.side and any(facts.frame_size) else None)
    try:
        points = next(iter(read_named(first))).points
    except (ValueError, TypeError, OSError, StopIteration) as error:
        raise FeatureError(f"{first}: {_reason(first, error)}") from error

    def read(path: Path) -> Clips:
        scores = np.zeros(2)
        for found in read_named(path):
            if size:
                scores += _scores_far_outside(found, size)
            if found.points != points:
                raise FeatureError(f"it has {len(found.points)} points, {first} {len(points)} or others")
            yield found.name, _shares(found, size, resize)
        if size and scores[0] > 0.05 * scores[1]:
            raise FeatureError(
                f"{scores[0] / scores[1]:.0%} of its points, weighted by score, lie outside pictures of "
                f"{size[1]}x{size[0]}: name the size on which they were found, --size=WIDTHxHEIGHT"
            )

    return read, points


def _reason(path: Path, error: Exception) -> str:
    if (
        isinstance(error, ValueError)
        and (known := describe(path))
        and "gzip" not in known
        and "zip" not in known
    ):
        return known
    return str(error)


def _files(form: Format, files: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, with the files of folders in order."""
    for path in files:
        if path.is_dir() and form.ends:
            inside = sorted(file for file in path.rglob("*") if file.suffix in form.ends)
            if not inside:
                raise FeatureError(f"{path} holds no file that ends in {' or '.join(form.ends)}")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise FeatureError(f"{path} is not a file{' or folder' if form.ends else ''}: {form.help}")


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.features",
        description="Import features into a prepared dataset, for runs that read them in place of frames.",
        epilog="formats: " + "; ".join(f"{name}: {form.help}" for name, form in FORMATS.items()),
    )
    parser.add_argument("files", nargs="+", type=user_path, help="the files of all splits, or their folders")
    parser.add_argument("--format", required=True, choices=FORMATS, dest="kind", help="see below")
    parser.add_argument("--name", required=True, help="of the set, for --config.data.features or keypoints")
    parser.add_argument("--dataset", required=True, help="the prepared dataset, such as phoenix2014t_qa")
    parser.add_argument(
        "--data_dir", type=user_path, default=Path("data"), help="of all prepared datasets (default: data)"
    )
    parser.add_argument("--stride", type=int, default=0, help="frames from one row to the next")
    parser.add_argument("--span", type=int, default=0, help="frames that a row looks at (default: stride)")
    parser.add_argument(
        "--size", type=frame_size, help="WIDTHxHEIGHT of the pictures on which keypoints were found"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a set of this name")
    return parser.parse_args(arguments)


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options: dict[str, Any] = vars(_parse_arguments(arguments))
    try:
        import_features(**options)
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing is left behind, run the same command again")


if __name__ == "__main__":
    set_up_output()
    main()
