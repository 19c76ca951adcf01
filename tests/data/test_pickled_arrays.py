"""Pickles and PyTorch files from others cannot read memory, nor use more than their size explains."""

import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslssaw_jax.data.pickled_arrays import read_pickle, read_torch
from tests.support.torch_pickles import Call, Name, Storage, dumps, in_pickle, new_file, old_file

ARRAY = np.arange(12, dtype="<f4")
LOAD = Name("torch.storage", "_load_from_bytes")


def view(storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, strides, False)


def pickled(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(dumps(content, protocol))
    return path


@pytest.mark.parametrize(
    "storage",
    [
        in_pickle(ARRAY.reshape(3, 4), new_file),
        view(in_pickle(ARRAY, new_file), 0, (3,), (4,)),  # of each fourth number
        np.array(["a", "b", "c"], object),
    ],
)
def test_a_tensor_is_made_from_whole_storages_only(tmp_path: Path, storage: Any) -> None:
    path = pickled(tmp_path / "x.pkl", view(storage, 0, (2,), (1,)))
    with pytest.raises(ValueError, match="something else than a storage"):
        read_pickle(path)


def test_a_tensor_has_no_more_numbers_than_its_storage(tmp_path: Path) -> None:
    storage = in_pickle(ARRAY, old_file).arguments[0]
    path = pickled(tmp_path / "x.pkl", view(storage, 0, (1 << 20, 1 << 10), (0, 0)))
    with pytest.raises(ValueError, match="does not have as many numbers"):
        read_pickle(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_any_number_are_within_the_limit(tmp_path: Path, protocol: int) -> None:
    rows = [{"a": np.full(20, n, np.float32), "b": b"x", "c": np.float64(n)} for n in range(200)]
    found = read_pickle(pickled(tmp_path / "x.pkl", rows, protocol))
    assert all((one["a"] == n).all() and one["c"] == n for n, one in enumerate(found))


def _same(call: bytes, first: bytes) -> bytes:
    """Return a pickle with 100 calls on one memoized object of a megabyte."""
    return b"\x80\x04]" + first + b"\x94" + b"0" + (call + b"a") * 100 + b"."


TEXT = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20)
PAIRS = b"](" + b"NN\x86" * 50_000 + b"e"
BYTES = b"B" + TEXT[1:]
ARRAY_OF = (  # an array whose state is these bytes
    b"cnumpy.core.multiarray\n_reconstruct\n)R"
    b"(K\x01J\0\0\x10\0\x85cnumpy\ndtype\nX\x02\0\0\0u1\x85R\x89h\x00t"
)


@pytest.mark.parametrize(
    "data",
    [
        _same(b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R", TEXT),
        _same(b"(c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1o", TEXT),
        _same(b"(h\x00X\x06\x00\x00\x00latin1i_codecs\nencode\n", TEXT),
        _same(b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86\x81", TEXT),
        _same(b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86}\x92", TEXT),
        _same(b"ccollections\nOrderedDict\nh\x00\x85R", PAIRS),
        _same(ARRAY_OF + b"b", BYTES),
    ],
    ids=["reduce", "obj", "inst", "newobj", "newobj_ex", "dictionary", "build"],
)
def test_calls_on_the_same_bytes_are_limited(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="the same bytes again and again"):
        read_pickle(tmp_path / "x.pkl")


def _doubled(leaf: bytes, depth: int) -> bytes:
    """Return instructions for a list of two of the same list, and so on."""
    made = leaf + b"\x94"
    for level in range(depth):
        get = b"h" + bytes([level])
        made += b"0](" + get + get + b"e\x94"
    return made + b"0h" + bytes([depth])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"})" + b"2\x86" * 60 + b"Ns.", "the same tuples again and again"),
        (b"cnumpy\ndtype\n" + _doubled(b"]", 30) + b"\x85R.", "something else than a name"),
        (ARRAY_OF[: ARRAY_OF.index(b"(")] + b")" + _doubled(b"]", 30) + b"s.", "changes an array"),
        (ARRAY_OF[: ARRAY_OF.index(b"(")] + b"()" + _doubled(b"]", 30) + b"u.", "changes an array"),
    ],
    ids=["tuple", "dtype", "item", "items"],
)
def test_a_few_bytes_do_not_become_many(tmp_path: Path, data: bytes, message: str) -> None:
    """The same part inside another, twice, and so on: 2 ** 30 parts."""
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + data)
    with pytest.raises(ValueError, match=message):
        read_pickle(tmp_path / "x.pkl")


def test_an_array_of_empty_texts_is_refused(tmp_path: Path) -> None:
    path = pickled(tmp_path / "x.pkl", np.zeros(3, "S1"))
    assert path.read_bytes().count(b"S1") == 1
    path.write_bytes(path.read_bytes().replace(b"S1", b"S0"))
    with pytest.raises(ValueError, match="it holds an array of"):
        read_pickle(path)


def test_a_dictionary_is_not_made_from_the_numbers_of_an_array(tmp_path: Path) -> None:
    """Else a few bytes would make a thousand times as many."""
    rows = in_pickle(ARRAY.reshape(6, 2), new_file)
    again = [Call(Name("collections", "OrderedDict"), rows) for _ in range(3)]
    with pytest.raises(ValueError, match="something else than pairs"):
        read_pickle(pickled(tmp_path / "x.pkl", again))


def test_files_in_files_are_read_once_and_one_level_deep(tmp_path: Path) -> None:
    inner = new_file(lambda tensor: tensor(ARRAY))
    again = [Call(LOAD, inner) for _ in range(100)]  # the pickler writes `inner` once
    with pytest.raises(ValueError, match="the same bytes again and again"):
        read_pickle(pickled(tmp_path / "x.pkl", again))
    nested = new_file(lambda tensor: Call(LOAD, inner))
    with pytest.raises(ValueError, match=r"torch\.storage\._load_from_bytes"):
        read_pickle(pickled(tmp_path / "y.pkl", Call(LOAD, nested)))


def test_views_of_a_storage_share_its_numbers(tmp_path: Path) -> None:
    storage, path = Storage("0", np.zeros(1 << 18, "<f4")), tmp_path / "x.pth"
    views = [view(storage, n, (1 << 17,), (1,)) for n in range(200)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", dumps(OrderedDict(enumerate(views))))
        archive.writestr("x/data/0", storage.numbers.tobytes())
    tracemalloc.start()
    assert len(read_torch(path)) == 200
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_storages_are_not_longer_than_their_file(tmp_path: Path) -> None:
    storages = [Storage(str(key), np.zeros(1 << 10, "<f4")) for key in range(8)]
    parts = [dumps(part) for part in (0x1950A86A20F9469CFC6C, 1001, {}, storages, [])]
    (tmp_path / "old.pth").write_bytes(b"".join(parts) + bytes(5000))
    with pytest.raises(ValueError, match="does not hold as many numbers as it says"):
        read_torch(tmp_path / "old.pth")
    data = new_file(lambda tensor: tensor(ARRAY))
    entry = data.rindex(b"PK\x01\x02")
    longer = data[: entry + 20] + struct.pack("<II", 1 << 30, 1 << 30) + data[entry + 28 :]
    (tmp_path / "new.pth").write_bytes(longer)
    with pytest.raises(ValueError, match="its parts are longer than the file"):
        read_torch(tmp_path / "new.pth")
