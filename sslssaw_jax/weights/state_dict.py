"""State dicts saved by PyTorch, read as data: no code in the file runs, and torch is not needed.

A file consists of a pickle that describes tensors, and of their numbers. The pickle is not loaded: its
instructions are followed by the few rules below, in which classes and functions are names. Nothing in it can
ask for more memory than the file has bytes: sizes, strides and offsets are compared with the numbers that are
there.
"""

import io
import math
import mmap
import pickletools
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslssaw_jax.data.pickled_arrays import OLD_MAGIC, STORAGE_DTYPES
from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.workdir import describe

_LONGEST_PICKLE = 1 << 24  # bytes; a model of 10,000 tensors with its optimizer has half as many
_OLD_PICKLES = 3  # magic number, version, system; the object follows
_MOST_AXES = 32
_LOCAL_HEADER = 30  # bytes before the name of a member of a zip file


@dataclass(frozen=True)
class _Named:
    """A class or function named in the file, or what it would have made; never called."""

    name: str


class _Storage(NamedTuple):
    """A run of numbers."""

    kind: str
    key: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class StateDict:
    """The tensors of a file by name, each read on request.

    Args:
        path: A `.bin`, `.pt` or `.pth` file.
        entries: The entries of a training checkpoint that are state dicts; names of their tensors begin with
            the name of the entry. No other entry is read.

    Raises:
        WeightsError: The file is not PyTorch's, is damaged, or holds things other than tensors.
    """

    def __init__(self, path: Path, entries: Sequence[str] = ()) -> None:
        self.path = path
        is_zip = zipfile.is_zipfile(path)
        try:
            found, self._starts = _read_zip(path) if is_zip else _read_old(path)
        except (OSError, ValueError, LookupError, RuntimeError, zipfile.BadZipFile) as error:
            known = "" if is_zip else describe(path)
            raise WeightsError(f"{path} cannot be read: {known or f'{error}; download it again'}") from error
        self._tensors = self._find(found, entries)
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    def _find(self, found: Any, entries: Sequence[str]) -> dict[str, _Tensor]:
        """Return the tensors in a file's object by name."""
        top = self._items(found)
        groups = {f"{entry}.": top[entry] for entry in entries if entry in top} if entries else {"": top}
        named = {
            prefix + key: value
            for prefix, group in groups.items()
            for key, value in self._items(group).items()
        }
        if others := [key for key, value in named.items() if not isinstance(value, _Tensor)]:
            kinds = {value.name for value in named.values() if isinstance(value, _Named)}
            raise WeightsError(
                f"{self.path} is not a plain state dict: {', '.join(others[:6])} hold no tensor"
                + (f" but {', '.join(sorted(kinds)[:3])}; save it dense, as float32" if kinds else "")
            )
        for name, tensor in named.items():
            self._check(name, tensor)
        return named

    def _items(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            kind = found.name if isinstance(found, _Named) else type(found).__name__
            raise WeightsError(f"{self.path} is not a plain state dict: it holds {kind}")
        return {key: value for key, value in found.items() if isinstance(key, str)}

    def _check(self, name: str, tensor: _Tensor) -> None:
        """Raise WeightsError unless all numbers of a tensor are there."""
        storage = tensor.storage
        if storage.kind not in STORAGE_DTYPES:
            raise WeightsError(
                f"{name} of {self.path} is a tensor of {storage.kind}, which is not read: save it as float32"
            )
        _, num_bytes = self._starts.get(storage.key, (0, -1))
        last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides))
        size = math.prod(tensor.shape)
        fits = len(tensor.shape) == len(tensor.strides) and size <= storage.size and last < storage.size
        stored = storage.size * np.dtype(STORAGE_DTYPES[storage.kind]).itemsize == num_bytes
        if not stored or not (fits or not size):
            raise WeightsError(
                f"{name} of {self.path} has the shape {list(tensor.shape)}, but the file does not hold as "
                "many numbers; download it again"
            )

    def read(self, name: str) -> np.ndarray:
        """Read a tensor."""
        storage, offset, shape, strides = self._tensors[name]
        dtype = np.dtype(STORAGE_DTYPES[storage.kind])
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        start, _ = self._starts[storage.key]
        count = 1 + sum((size - 1) * step for size, step in zip(shape, strides))
        numbers = np.fromfile(self.path, dtype, count, offset=start + offset * dtype.itemsize)
        if len(numbers) < count:
            raise WeightsError(f"{self.path} ends within {name}; download it again")
        in_bytes = [step * dtype.itemsize for step in strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(numbers, shape, in_bytes))


Starts = dict[str, tuple[int, int]]  # first byte and number of bytes of each storage


def _read_zip(path: Path) -> tuple[Any, Starts]:
    """Return the object in a file of PyTorch 1.6 or later."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = archive.infolist()
        # PyTorch compresses nothing, so members larger than the file are a trick
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, which PyTorch's files are not")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its parts are longer than the file")
        described = next((member for member in members if member.filename.endswith("data.pkl")), None)
        if described is None:
            raise ValueError("it is a zip archive without data.pkl, which PyTorch's files have")
        folder = described.filename.removesuffix("data.pkl")
        if described.file_size > _LONGEST_PICKLE:
            raise ValueError(f"its data.pkl has {described.file_size:,} bytes")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("it was saved on a big-endian machine")
        found = _follow(io.BytesIO(archive.read(described)))
        starts = {}
        for member in members:
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER)
            names = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            start = member.header_offset + _LOCAL_HEADER + names
            starts[member.filename.removeprefix(f"{folder}data/")] = (start, member.file_size)
    return found, starts


def _read_old(path: Path) -> tuple[Any, Starts]:
    """Return the object in a file from before PyTorch 1.6."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if _follow(data) != OLD_MAGIC:
            raise ValueError("it is not PyTorch's")
        for _ in range(_OLD_PICKLES - 1):
            _follow(data)
        storages: dict[str, _Storage] = {}
        found, keys = _follow(data, storages), _follow(data)
        starts, place = {}, data.tell()
        if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
            raise ValueError("it is damaged")
        for storage in map(storages.__getitem__, keys):
            if storage.kind not in STORAGE_DTYPES:
                raise ValueError(f"it holds a tensor of {storage.kind}; save it as float32")
            size = int.from_bytes(data[place : place + 8], "little")
            num_bytes = size * np.dtype(STORAGE_DTYPES[storage.kind]).itemsize
            if size != storage.size or place + 8 + num_bytes > len(data):
                raise ValueError("it ends within its numbers")
            starts[storage.key] = (place + 8, num_bytes)
            place += 8 + num_bytes
    return found, starts


_MARK = object()
_PUSHED = {  # instructions whose argument is a value
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,  # only tensors in dictionaries are of interest
}
_IGNORED = {"PROTO", "FRAME"}


def _follow(data: Any, storages: dict[str, _Storage] | None = None) -> Any:
    """Follow the instructions of a pickle; return the object.

    Whatever is not data becomes `_Named`.

    Args:
        data: A file in memory, at the first byte of the pickle; left after its last.
        storages: Receives the storages that are named.

    Raises:
        ValueError: The pickle is damaged or too long.
        LookupError: The same.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    begin = data.tell()

    def above_mark() -> list[Any]:
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("it is damaged")
        values = stack[place + 1 :]
        del stack[place:]
        return values

    for opcode, argument, position in pickletools.genops(data):
        name = opcode.name
        if position is not None and position - begin > _LONGEST_PICKLE:
            raise ValueError("its pickle is too long")
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(above_mark()))
        elif name in ("LIST", "FROZENSET"):
            stack.append(above_mark())
        elif name == "DICT":
            stack.append({})
            _set(stack[-1], above_mark())
        elif name == "APPEND":
            value = stack.pop()
            _extend(stack[-1], [value])
        elif name in ("APPENDS", "ADDITEMS"):
            values = above_mark()
            _extend(stack[-1], values)
        elif name == "SETITEM":
            pair = stack[-2:]
            del stack[-2:]
            _set(stack[-1], pair)
        elif name == "SETITEMS":
            values = above_mark()
            _set(stack[-1], values)
        elif name == "GLOBAL":
            stack.append(_Named(str(argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_Named(".".join(part for part in stack[-2:] if isinstance(part, str)))]
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = stack[-2:]
            stack[-2:] = [_made(function, arguments)]
        elif name == "NEWOBJ_EX":
            stack[-3:] = [_made(stack[-3], ())]
        elif name in ("INST", "OBJ"):
            values = above_mark()
            stack.append(_Named(str(argument).replace(" ", ".")) if name == "INST" else _made(values[0], ()))
        elif name == "BUILD":
            stack.pop()  # attributes of an object
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
            if storages is not None and isinstance(stack[-1], _Storage):
                storages[stack[-1].key] = stack[-1]
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            above_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "STOP":
            return stack.pop()
        elif name not in _IGNORED:
            raise ValueError(f"it holds the instruction {name}")
    raise ValueError("it ends too early")


def _set(target: Any, values: list[Any]) -> None:
    """Set keys and values in turn, if keys are texts or numbers."""
    if isinstance(target, dict):
        pairs = zip(values[::2], values[1::2])
        target.update((key, value) for key, value in pairs if isinstance(key, str | int))


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)


def _made(function: Any, arguments: Any) -> Any:
    """Return what a function makes, if it is a dictionary or tensor."""
    name = function.name if isinstance(function, _Named) else ""
    if name == "collections.OrderedDict":
        return {}
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        if not isinstance(arguments, tuple) or len(arguments) < 4:
            raise ValueError("it is damaged")
        storage, offset, shape, strides = arguments[:4]
        if isinstance(storage, _Storage) and _are_sizes([offset], shape, strides):
            return _Tensor(storage, offset, tuple(shape), tuple(strides))
        raise ValueError("it is damaged")
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return arguments[0] if isinstance(arguments, tuple) and arguments else function
    return function if name else _Named("an object")


def _are_sizes(*values: Any) -> bool:
    return all(
        isinstance(each, list | tuple)
        and len(each) <= _MOST_AXES
        and all(type(size) is int and 0 <= size < 1 << 48 for size in each)
        for each in values
    )


def _storage(reference: Any) -> Any:
    """Return the storage of `("storage", kind, key, device, size, ...)`."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        return _Named("an object outside the pickle")
    _, kind, key, _, size = reference[:5]
    if len(reference) > 5 and reference[5] is not None:
        raise ValueError("it holds views of storages, as PyTorch before 0.4 wrote them")
    if not (isinstance(kind, _Named) and isinstance(key, str) and _are_sizes([size])):
        raise ValueError("it is damaged")
    return _Storage(kind.name.rpartition(".")[2], key, size)
