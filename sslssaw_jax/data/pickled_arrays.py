"""Tensors and arrays in pickles and in PyTorch files, read without torch.

Sizes, strides and offsets are compared with the numbers that are there.
"""

import contextlib
import gzip
import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from sslssaw_jax.data.unpickler import ARRAYS, DICTIONARIES, StorageKind, Unknown, Unpickler

_MOST_AXES = 32
_LONGEST_PICKLE = 1 << 24  # bytes, in PyTorch's files; 10,000 tensors with their optimizer need half as many
_GZIP_MAGIC, _ZIP_MAGIC = b"\x1f\x8b", b"PK"
_OLD_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
_LOCAL_HEADER = 30  # bytes before the name of a member of a zip file


class _Storage(NamedTuple):
    """A run of numbers in a file, or in its bytes."""

    source: Path | bytes
    dtype: np.dtype[Any]
    start: int  # byte
    size: int


class Tensor(NamedTuple):
    """A view of a storage that is completely there."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Return the numbers from the file, or a view of its bytes.

        Raises:
            ValueError: The file ends within them.
        """
        source, dtype, start, _ = self.storage
        if not math.prod(self.shape):
            return np.zeros(self.shape, dtype)
        start += self.offset * dtype.itemsize
        size = (1 + _last(self.shape, self.strides)) * dtype.itemsize
        if isinstance(source, bytes):
            buffer = np.frombuffer(source, np.uint8, size, start)
        else:
            buffer = np.fromfile(source, np.uint8, size, offset=start)
        if len(buffer) < size:  # NumPy does not check an empty buffer
            raise ValueError("it ends within its numbers")
        return np.ndarray(self.shape, dtype, buffer, 0, [step * dtype.itemsize for step in self.strides])


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn any failure into a ValueError.

    Damaged bytes can make any instruction fail in any way.
    """
    try:
        yield
    except MemoryError as error:
        raise ValueError("it cannot be read: it asks for more memory than there is") from error
    except Exception as error:
        told = isinstance(error, ValueError | OSError | pickle.UnpicklingError | zipfile.BadZipFile)
        reason = error if told else f"it is damaged ({type(error).__name__})"
        raise ValueError(f"it cannot be read: {reason}") from error


@_explained()
def read_pickle(path: Path) -> Any:
    """Read a pickle, gzipped or not, whose tensors become arrays.

    Raises:
        ValueError: The file is damaged, or holds an object that is neither data nor a tensor.
    """
    with _unpacked(path) as file:
        return Unpickler(file, _IN_PICKLES).load()


@_explained()
def read_plain_pickle(path: Path, most_bytes: int) -> Any:
    """Read a pickle of texts and numbers, gzipped or not.

    Raises:
        ValueError: The file is damaged, holds more bytes than `most_bytes`, or any other object.
    """
    with _unpacked(path) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it holds more than {most_bytes:,} bytes")
    return Unpickler(io.BytesIO(data), {}).load()


@_explained()
def read_torch(path: Path) -> Any:
    """Read what `torch.save` wrote in either of its formats, tensors as arrays.

    Raises:
        ValueError: As `read_pickle`.
    """
    return _load_torch(path.read_bytes(), _ARRAYS)


@_explained()
def open_torch(path: Path) -> Any:
    """Read what `torch.save` wrote, with each `Tensor` left in the file.

    Objects that are neither data nor tensors become `Unknown`.

    Raises:
        ValueError: The file is damaged.
    """
    return _load_torch(path, _TENSORS, lenient=True)


@_explained()
def read_object(path: Path) -> Any:
    """Read the object that NumPy pickled into a `.npy` file.

    Python 2 may have written it.

    Raises:
        ValueError: As `read_pickle`.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return Unpickler(file, _IN_PICKLES, encoding="latin1").load().item()


def is_zip(path: Path) -> bool:
    """Return whether a file begins as a zip archive does."""
    return _begins(path, _ZIP_MAGIC)


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _unpacked(path: Path) -> Any:
    return gzip.open(path) if _begins(path, _GZIP_MAGIC) else path.open("rb")


_Places = dict[str, tuple[int, int]]  # first byte and number of bytes of each storage


def _load(data: Any) -> Any:
    """Return the object in PyTorch's bytes in a pickle."""
    if not isinstance(data, bytes):
        raise ValueError("a tensor is made from something else than bytes")
    return _load_torch(data, _ARRAYS)


def _load_torch(source: Path | bytes, known: dict[str, Any], *, lenient: bool = False) -> Any:
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        zipped = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
        described, places = (_parts_of_zip if zipped else _parts_of_old)(file)

    def storage(kind: StorageKind | Unknown, key: str, size: int) -> Any:
        if isinstance(kind, Unknown):
            return kind
        if key not in places or size != places[key][1] // kind.dtype.itemsize:
            raise ValueError("it does not hold as many numbers as it says")
        start, _ = places[key]
        return _Storage(source, kind.dtype, start, size)

    return Unpickler(io.BytesIO(described), known, storage, lenient=lenient, encoding="latin1").load()


def _parts_of_zip(file: Any) -> tuple[bytes, _Places]:
    """Return the pickle in a zipped file, and where its numbers are."""
    with zipfile.ZipFile(file) as archive:
        listed = archive.infolist()
        members = {member.filename.partition("/")[2]: member for member in listed}
        # PyTorch compresses nothing, so members larger than the file are a trick
        if any(member.compress_type != zipfile.ZIP_STORED for member in listed):
            raise ValueError("it is compressed, which PyTorch's files are not")
        if sum(member.file_size for member in listed) > file.seek(0, os.SEEK_END):
            raise ValueError("its parts are longer than the file")
        if "data.pkl" not in members:
            raise ValueError("it is a zip archive without data.pkl, which PyTorch's files have")
        if members["data.pkl"].file_size > _LONGEST_PICKLE:
            raise ValueError("its pickle is too long")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise ValueError("it was saved on a big-endian machine")
        if isinstance(file, io.BytesIO) and (damaged := archive.testzip()):
            raise ValueError(f"its {damaged} is damaged")
        places = {}
        for name, member in members.items():
            file.seek(member.header_offset + _LOCAL_HEADER - 4)
            lengths = struct.unpack("<HH", file.read(4))  # of name and extra field
            start = member.header_offset + _LOCAL_HEADER + sum(lengths)
            places[name.removeprefix("data/")] = (start, member.file_size)
        return archive.read(members["data.pkl"]), places


def _parts_of_old(file: Any) -> tuple[bytes, _Places]:
    """Return the same of a file from before PyTorch 1.6."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    begin = io.BytesIO(file.read(min(length, _LONGEST_PICKLE)))
    if Unpickler(begin, {}).load() != _OLD_MAGIC:
        raise ValueError("it is not PyTorch's")
    for _ in ("version", "system"):
        Unpickler(begin, {}).load()
    storages: dict[str, tuple[Any, int]] = {}

    def note(kind: StorageKind | Unknown, key: str, size: int) -> None:
        storages[key] = kind, size

    first = begin.tell()
    Unpickler(begin, _STORAGES, note, lenient=True, encoding="latin1").load()
    described = begin.getvalue()[first : begin.tell()]
    keys, places = Unpickler(begin, {}).load(), {}
    place = begin.tell()
    for key in keys:
        kind, size = storages[key]
        if isinstance(kind, Unknown):
            raise ValueError(f"it holds a tensor of {kind.name}")
        file.seek(place)
        num_bytes = size * kind.dtype.itemsize
        if int.from_bytes(file.read(8), "little") != size or place + 8 + num_bytes > length:
            raise ValueError("it ends within its numbers")
        places[key] = (place + 8, num_bytes)
        place += 8 + num_bytes
    return described, places


def _last(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the place of a tensor's last number after its first."""
    return sum((size - 1) * step for size, step in zip(shape, strides))


def _tensor(storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> Any:
    """Return a tensor, or its array if the file is in memory."""
    if isinstance(storage, Unknown):
        return storage
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor is made from something else than a storage")
    whole = all(type(each) is int and 0 <= each < 1 << 48 for each in (offset, *shape, *strides))
    if not whole or len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise ValueError("a tensor has a wrong shape")
    tensor, size = Tensor(storage, offset, tuple(shape), tuple(strides)), math.prod(shape)
    fits = size <= storage.size and (not size or offset + _last(shape, strides) < storage.size)
    if isinstance(storage.source, Path):
        return tensor if fits else Unknown(f"a view of fewer numbers as {list(shape)}")
    if not fits:
        raise ValueError(f"a tensor of the shape {list(shape)} does not have as many numbers")
    return tensor.read()


_STORAGES: dict[str, Any] = {
    f"torch.{name}Storage": StorageKind(np.dtype(dtype))
    for name, dtype in {
        "Float": "<f4",
        "Double": "<f8",
        "Half": "<f2",
        "BFloat16": ml_dtypes.bfloat16,
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
    }.items()
}
_TENSORS = (
    DICTIONARIES
    | _STORAGES
    | {
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    }
)
_ARRAYS = ARRAYS | _TENSORS
_IN_PICKLES = _ARRAYS | {"torch.storage._load_from_bytes": _load}  # no files in files in files
