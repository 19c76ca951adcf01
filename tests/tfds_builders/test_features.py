"""Published features: each format is read as written, and anything that does not fit is named."""

import gzip
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy._core import multiarray, numeric

from sslssaw_jax.data.dataset import Dataset, find_dataset
from sslssaw_jax.data.features import FeatureSource, find_features
from sslssaw_jax.data.keypoints import COCO_WHOLEBODY, find_keypoints
from sslssaw_jax.data.pickled_arrays import read_pickle, read_torch
from sslssaw_jax.data.video import Resize
from sslssaw_jax.workdir import read_jsonl, write_jsonl
from tests.support.annotations import ANNOTATIONS
from tests.support.torch_pickles import dumps, in_pickle, new_file, old_file
from tfds_builders.features import FeatureError, _named_reader, _shares, main
from tfds_builders.pose_files import Keypoints, read_named, read_pose, write_pose

POSES = ANNOTATIONS / "poses"


@pytest.fixture
def dataset(tiny_data_dir: Path, tmp_path: Path) -> Dataset:
    shutil.copytree(tiny_data_dir, tmp_path / "data", ignore=shutil.ignore_patterns("*.array_record-*"))
    return find_dataset(tmp_path / "data", "avatar_qa")


def run(dataset: Dataset, kind: str, *files: Path, **options: Any) -> None:
    more = [f"--{key}={value}" for key, value in options.items()]
    place = ["--name=set", f"--dataset={dataset.name}", f"--data_dir={dataset.folder.parents[1]}"]
    main([f"--format={kind}", *place, *more, *map(str, files)])


def clips(dataset: Dataset, split: str, count: Callable[[int], int] = lambda frames: frames) -> dict:
    """Draw the rows of each clip, [n, 4]."""
    source = FeatureSource.__mro__[1](dataset, split)
    rng = np.random.default_rng(0)
    return {clip.id: rng.normal(size=(count(clip.num_frames), 4)).astype(np.float32) for clip in source.clips}


def pack(path: Path, split: str, rows: dict, file: Callable[..., bytes] = old_file) -> Path:
    entries = [
        {"name": f"{split}/{name}", "signer": "1", "gloss": "A", "text": "a .", "sign": in_pickle(each, file)}
        for name, each in rows.items()
    ]
    path.write_bytes(gzip.compress(dumps(entries, protocol=3)))
    return path


def assert_imported(dataset: Dataset, split: str, rows: dict) -> None:
    source = FeatureSource(dataset, split, ["set"])
    assert len(source.clips) == len(rows)
    for index, clip in enumerate(source.clips):
        found = source.read_features(index, 10_000, None)[0]
        np.testing.assert_array_equal(found, rows[clip.id].astype(np.float16))


@pytest.mark.parametrize("file", [old_file, new_file], ids=["before 1.6", "zip"])
def test_packs_of_signjoey(dataset: Dataset, tmp_path: Path, file: Callable[..., bytes], capsys) -> None:
    train, dev = clips(dataset, "train"), clips(dataset, "dev")
    paths = [
        pack(tmp_path / "pack.train", "train", train | {"not prepared": np.ones((3, 4), np.float32)}, file),
        pack(tmp_path / "pack.dev", "dev", dev, file),
    ]
    run(dataset, "signjoey", *paths)
    assert_imported(dataset, "train", train)
    assert_imported(dataset, "dev", dev)
    printed = capsys.readouterr().out
    assert (
        "24 clips of train, 6 clips of dev, 4 numbers a row, stride 1: --config.data.features=set" in printed
    )
    assert "odd: 1 clips are not in avatar_qa: train/not prepared" in printed


def test_features_of_slrt_are_a_quarter_of_the_frames(dataset: Dataset, tmp_path: Path) -> None:
    dev = clips(dataset, "dev", lambda frames: frames // 4)
    run(dataset, "slrt", pack(tmp_path / "dev.pkl", "dev", dev))
    assert_imported(dataset, "dev", dev)
    (found,) = find_features(dataset, ["set"])
    assert (found.stride, found.span, found.width) == (4, 4, 4)


def test_slrt_s_features_of_a_long_clip_end_after_400_frames(dataset: Dataset, tmp_path: Path) -> None:
    listed = dataset.clips_file("dev")
    rows = read_jsonl(listed)
    write_jsonl(listed, [rows[0] | {"num_frames": 475}, *rows[1:]])
    dev = clips(dataset, "dev", lambda frames: min(frames, 400) // 4)
    run(dataset, "slrt", pack(tmp_path / "dev.pkl", "dev", dev))
    assert_imported(dataset, "dev", dev)


@pytest.mark.parametrize("file", [old_file, new_file], ids=["before 1.6", "zip"])
def test_windows_of_tspnet(dataset: Dataset, tmp_path: Path, file: Callable[..., bytes]) -> None:
    dev = clips(dataset, "dev", lambda frames: max((frames - 8) // 2 + 1, 1))
    folder = tmp_path / "span=8_stride=2"
    folder.mkdir()
    for name, rows in dev.items():
        parts = np.array_split(rows, 2)
        (folder / f"{name}.pt").write_bytes(file(lambda tensor: [tensor(part) for part in parts]))  # noqa: B023
    run(dataset, "tspnet", folder)
    assert_imported(dataset, "dev", dev)
    (found,) = find_features(dataset, ["set"])
    assert (found.stride, found.span) == (2, 8)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_keypoints_of_slrt(dataset: Dataset, tmp_path: Path, protocol: int) -> None:
    dev = clips(dataset, "dev")
    points = {f"dev/{name}": {"keypoints": np.repeat(rows[:, :3, None], 3, 2)} for name, rows in dev.items()}
    path = tmp_path / "keypoints.pkl"
    path.write_bytes(pickle.dumps(points, protocol))
    run(dataset, "pose", path)
    assert_imported(dataset, "dev", {name: np.repeat(rows[:, :3], 3, 1) for name, rows in dev.items()})


def pose_file(version: float, points: np.ndarray) -> bytes:
    """Return a `.pose` file of `[T, people, points, 3]`, the last axis being x, y and the confidence."""

    def text(words: str) -> bytes:
        return struct.pack("<H", len(words)) + words.encode()

    frames, people, number, _ = points.shape
    head = struct.pack("<fHHHH", version, 200, 100, 0, 1) + text("HAND") + text("XYC")
    head += struct.pack("<HHH", number, 1, 1) + b"".join(text(f"P{i}") for i in range(number))
    head += struct.pack("<HH", 0, 1) + struct.pack("<HHH", 255, 0, 0)
    head += struct.pack("<HHH" if version == 0.1 else "<fIH", 25, frames, people)
    numbers = points.astype("<f4")
    return head + numbers[..., :2].tobytes() + numbers[..., 2:].tobytes()


@pytest.mark.parametrize("version", [0.1, 0.2])
def test_pose_files(dataset: Dataset, tmp_path: Path, version: float) -> None:
    rng, expected = np.random.default_rng(0), {}
    for name, rows in clips(dataset, "dev").items():
        points = rng.integers(1, 200, (len(rows), 2, 3, 3)).astype(float)
        points[0, 0, 1, 2] = 0  # not found
        (tmp_path / f"{name}.pose").write_bytes(pose_file(version, points))
        first = points[:, 0]
        shares = np.where(first[..., 2:] > 0, first[..., :2] / 200, 0)
        expected[name] = np.concatenate([shares, first[..., 2:]], -1).reshape(len(rows), 9)
    (tmp_path / "only poses").mkdir()
    for path in tmp_path.glob("*.pose"):
        path.rename(tmp_path / "only poses" / path.name)
    run(dataset, "pose", tmp_path / "only poses")
    assert_imported(dataset, "dev", {name: rows.astype(np.float32) for name, rows in expected.items()})


def keypoints(dataset: Dataset, split: str) -> dict:
    """Draw the points of each clip, [T, 133, 3], in pixels of 100 x 200."""
    rng = np.random.default_rng(0)
    drawn = {
        name: rng.random((len(rows), 133, 3)) * (99, 199, 1) for name, rows in clips(dataset, split).items()
    }
    drawn["dev-000"][0, 3, 2] = 0  # not found
    return drawn


def test_keypoints_of_the_release_become_shares_of_the_stored_frame(
    dataset: Dataset, tmp_path: Path, capsys
) -> None:
    """The dataset's frames are the middle squares of the pictures."""
    drawn, path = keypoints(dataset, "dev"), tmp_path / "keypoints.pkl"
    path.write_bytes(pickle.dumps({name: {"keypoints": each} for name, each in drawn.items()}))
    with pytest.raises(SystemExit, match=r"keypoints.pkl: .* how large its pictures are: add --size"):
        run(dataset, "keypoints", path)
    run(dataset, "keypoints", path, size="100x200")
    expected = {}
    for name, places in drawn.items():
        shares = (places[..., :2] + 0.5 - (0, 50)) / 100
        both = np.concatenate([np.where(places[..., 2:] > 0, shares, 0), places[..., 2:]], -1)
        expected[name] = both.reshape(len(both), -1)
    source = FeatureSource(dataset, "dev", ["set"])
    for index, clip in enumerate(source.clips):
        np.testing.assert_allclose(source.read_features(index, 99, None)[0], expected[clip.id], atol=1e-3)
    assert "6 clips of dev, 133 points: --config.data.keypoints=set" in capsys.readouterr().out
    found = find_keypoints(dataset, "set")
    assert found is not None and found.points == COCO_WHOLEBODY


def test_a_size_that_leaves_many_keypoints_outside_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    drawn, path = keypoints(dataset, "dev"), tmp_path / "keypoints.pkl"
    for places in drawn.values():
        places[..., 2] = 1
        places[:, 13:23] = (50, 300, 0.01)  # legs that nobody sees
    path.write_bytes(pickle.dumps({name: {"keypoints": each} for name, each in drawn.items()}))
    with pytest.raises(
        SystemExit, match=r"keypoints.pkl: \d+% of its points, .* outside .* 50x200: .*--size"
    ):
        run(dataset, "keypoints", path, size="50x200")
    assert not [each for each in (dataset.folder / "features").iterdir() if each.is_dir()]
    run(dataset, "keypoints", path, size="100x200")


@pytest.mark.skipif(not POSES.exists(), reason="no real poses")
def test_real_keypoints_lie_inside_the_pictures_of_their_size(dataset: Dataset) -> None:
    for path in sorted(POSES.glob("*.pose")):
        (found,) = read_named(path)
        (own,) = _named_reader(path, found.size, dataset.facts)[0](path)
        assert own[0] == found.name
        with pytest.raises(FeatureError, match="outside pictures of 320x240"):
            list(_named_reader(path, (240, 320), dataset.facts)[0](path))


@pytest.mark.parametrize(
    ("resize", "left"), [("48", 0.25), ("short:48", 0.25), ("none", 0.25), ("crop:48", 0.0)]
)
def test_only_a_crop_moves_keypoints(resize: str, left: float) -> None:
    """A point at a quarter of the width and of the height of a picture of 200 x 100 pixels."""
    found = Keypoints("a", ("nose",), np.array([[[50.0, 25.0, 0.5]]]), (100, 200))
    np.testing.assert_allclose(_shares(found, None, Resize.parse(resize)), [[left, 0.25, 0.5]])


def test_keypoints_in_pose_files_bring_names_and_size(dataset: Dataset, tmp_path: Path) -> None:
    folder, expected = tmp_path / "dev", {}
    folder.mkdir()
    for name, rows in clips(dataset, "dev").items():
        places = np.abs(rows[:, :4]).reshape(-1, 2, 2)
        write_pose(folder / f"{name}.pose", ("nose", "left_wrist"), places, (480, 640))
        expected[name] = np.pad(places, ((0, 0), (0, 0), (0, 1)), constant_values=1)
        # the middle square of 640 x 480
        expected[name][..., 0] = (places[..., 0] * 640 - 80) / 480
        expected[name] = expected[name].reshape(len(rows), 6)
    run(dataset, "keypoints", folder)
    source = FeatureSource(dataset, "dev", ["set"])
    for index, clip in enumerate(source.clips):
        np.testing.assert_allclose(source.read_features(index, 99, None)[0], expected[clip.id], atol=2e-3)
    found = find_keypoints(dataset, "set")
    assert found is not None and found.points == ("nose", "left_wrist")


@pytest.mark.skipif(not POSES.exists(), reason="no real poses")
def test_real_pose_files_name_their_points() -> None:
    (found,) = read_named(next(iter(sorted(POSES.glob("*.pose")))))
    assert found.size == (480, 640) and found.places.shape[1:] == (178, 3)
    assert {"left_shoulder", "right_wrist", "left_hand_20", "right_hand_0"} < set(found.points)
    shoulders = [
        found.places[:, found.points.index(f"{side}_shoulder"), 0].mean() for side in ("left", "right")
    ]
    assert 640 > shoulders[0] > shoulders[1] > 0, "left is the signer's"


@pytest.mark.skipif(not POSES.exists(), reason="no real poses")
def test_real_pose_files_are_read_whole() -> None:
    for path in sorted(POSES.glob("*.pose")):
        rows = read_pose(path)
        assert rows.shape[1] == 4 * (rows.shape[1] // 4) and len(rows) > 10
        assert np.isfinite(rows).all() and rows[:, 3::4].min() >= 0 and rows[:, 3::4].max() <= 1.01
        assert 0.2 < rows[:, 0][rows[:, 3] > 0].mean() < 0.8  # a shoulder, as a share of the width


def test_own_arrays_in_folders_of_splits(dataset: Dataset, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        (tmp_path / "own" / split).mkdir(parents=True)
        for name, rows in clips(dataset, split).items():
            np.save(tmp_path / "own" / split / f"{name}.npy", rows)
    run(dataset, "npy", tmp_path / "own")
    assert_imported(dataset, "dev", clips(dataset, "dev"))


def test_the_stride_is_not_guessed_where_no_frames_can_contradict_it(
    dataset: Dataset, tmp_path: Path
) -> None:
    dev = clips(dataset, "dev", lambda frames: frames // 4)
    listed = dataset.clips_file("dev")
    write_jsonl(listed, [row | {"num_frames": 0} for row in read_jsonl(listed)])
    path = pack(tmp_path / "pack", "dev", dev)
    with pytest.raises(SystemExit, match=r"has no frames .* --format=signjoey does not say: add --stride"):
        run(dataset, "signjoey", path)
    assert not [each for each in (dataset.folder / "features").iterdir() if each.is_dir()]
    run(dataset, "signjoey", path, stride=4)
    (found,) = find_features(dataset, ["set"])
    assert found.stride == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: {name: each for name, each in rows.items() if name != "dev-002"},
            "1 of 6 clips of dev have no features: dev-002",
        ),
        (
            lambda rows: rows | {"dev-003": rows["dev-003"][:, :3]},
            "pack: the clip dev-003 of dev has features of the width 3",
        ),
        (
            lambda rows: rows | {"dev-003": rows["dev-003"][:-1]},
            r"pack: the clip dev-003 of dev has \d+ frames and \d+ rows",
        ),
        (
            lambda rows: rows | {"dev-003": rows["dev-003"] * 1e6},
            r"pack: the clip dev-003 of dev has a feature of .*, and float16",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_leaves_nothing(
    dataset: Dataset, tmp_path: Path, change: Any, message: str
) -> None:
    path = pack(tmp_path / "pack", "dev", change(clips(dataset, "dev")))
    with pytest.raises(SystemExit, match=message):
        run(dataset, "signjoey", path)
    assert not [each for each in (dataset.folder / "features").iterdir() if each.is_dir()]


def write_touch(path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (path.with_name("run"),)

    path.write_bytes(pickle.dumps([Evil()]))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_touch, "it cannot be read: it holds an object of pathlib.*, which could run code"),
        (
            lambda path: path.write_bytes(b"<!DOCTYPE html><p>Sign in"),
            "it is a web page, not the file itself",
        ),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "it holds a dict; expected a list"),
        (
            lambda path: path.write_bytes(pickle.dumps([{"name": "a", "text": "b"}])),
            "entry 1 has no 'name' and tensor",
        ),
        (
            lambda path: path.write_bytes(
                dumps([{"name": "a", "sign": in_pickle(np.ones((2, 2), np.float32), old_file)}])[:-40]
            ),
            "it cannot be read",
        ),
    ],
)
def test_a_file_of_something_else_is_named_and_runs_no_code(
    dataset: Dataset, tmp_path: Path, write: Any, message: str
) -> None:
    write(tmp_path / "pack")
    with pytest.raises(SystemExit, match=f"error: .*pack: {message}"):
        run(dataset, "signjoey", tmp_path / "pack")
    assert not (tmp_path / "run").exists()


def test_sizes_beyond_the_file_are_refused(tmp_path: Path) -> None:
    array = np.ones((2, 3), np.float32)
    good = old_file(lambda tensor: [tensor(array)])
    (tmp_path / "x.pt").write_bytes(good.replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86"))
    with pytest.raises(ValueError, match=r"a tensor of the shape \[9, 3\] does not have as many numbers"):
        read_torch(tmp_path / "x.pt")


def test_a_file_cannot_ask_for_more_slots_than_it_fills(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02Nr\xff\xff\xff\xff.")  # LONG_BINPUT: 32 GiB of slots in C
    assert read_pickle(tmp_path / "x.pkl") is None
    (tmp_path / "x.pkl").write_bytes(b"})" + b"\x85" * 300_000 + b"I1\ns.")  # whose hash overflows the stack
    with pytest.raises(ValueError, match="tuples in tuples, 100 deep"):
        read_pickle(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x05\x96" + (2**30).to_bytes(8, "little") + b".")
    with pytest.raises(ValueError, match="cannot be read"):
        read_pickle(tmp_path / "x.pkl")


class _Made:
    """An object that a pickle makes by calling a function, with a state."""

    def __init__(self, function: Any, arguments: tuple, state: Any = None) -> None:
        self._made = function, arguments, state

    def __reduce__(self) -> tuple:
        return self._made


ADDRESS = b"A" * 8
EMPTY = multiarray._reconstruct, (np.ndarray, (0,), b"b")


@pytest.mark.parametrize(
    "made",
    [
        _Made(np.ndarray, ((1,), np.dtype("O"), ADDRESS)),
        _Made(
            multiarray._reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, (1,), np.dtype("O"), False, ADDRESS),
        ),
        _Made(multiarray.scalar, (np.dtype("O"), ADDRESS)),
        _Made(numeric._frombuffer, (ADDRESS, np.dtype("O"), (1,), "C")),
        _Made(*EMPTY, (1, (200_000,), np.dtype("O"), False, [])),
        _Made(
            *EMPTY,
            (1, (200_000,), _Made(np.dtype, ("f8",), (3, "<", None, None, None, -1, -1, 63)), False, []),
        ),
        _Made(numeric._frombuffer, (ADDRESS, np.dtype("f8"), (1,), "C"), (1, (9,), np.dtype("O"), False, [])),
    ],
    ids=["ndarray", "state", "scalar", "buffer", "short", "flags", "again"],
)
def test_a_pickle_gives_no_addresses_of_objects(made: _Made, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([made], protocol=2))
    with pytest.raises(ValueError, match="it cannot be read"):
        read_pickle(tmp_path / "x.pkl")


def test_tensors_are_read_as_torch_writes_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6.0).reshape(2, 3).T,
        torch.ones(2, 1).bfloat16(),
    ]
    for new in (True, False):
        torch.save(tensors, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        for ours, theirs in zip(read_torch(tmp_path / "x.pt"), tensors, strict=True):
            np.testing.assert_array_equal(ours.astype(np.float32), theirs.float().numpy())
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([{"sign": each} for each in tensors]))
    for ours, theirs in zip(read_pickle(tmp_path / "x.pkl"), tensors, strict=True):
        np.testing.assert_array_equal(ours["sign"].astype(np.float32), theirs.float().numpy())
