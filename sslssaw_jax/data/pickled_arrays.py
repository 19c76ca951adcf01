"""Tensors and arrays in pickles and in PyTorch files, read without torch; no code in a file runs.

Of all classes and functions that a pickle may name, only the few for dictionaries, tensors and arrays are
known, each replaced by one from here. Nothing can ask for more memory than the file has bytes: sizes, strides
and offsets are compared with the numbers that are there.
"""

import collections
import contextlib
import gzip
import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy._core import multiarray, numeric

_MOST_NESTED = 100  # tuples: hashing deeper ones overflows the stack
_LONGEST_DTYPE = 16  # characters, such as "<U1000000"
_MOST_AXES = 32
_LONGEST_PICKLE = 1 << 24  # bytes, in PyTorch's files; 10,000 tensors with their optimizer need half as many
_COPIED = (str, bytes, bytearray, list, dict)  # what calls may copy
_GZIP_MAGIC, _ZIP_MAGIC = b"\x1f\x8b", b"PK"
_OLD_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
_LOCAL_HEADER = 30  # bytes before the name of a member of a zip file


class _Kind(NamedTuple):
    """A kind of storage that a file names."""

    dtype: np.dtype[Any]


class Unknown:
    """A class or function that is not known, or what it would make."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def ignore(self, *_: Any) -> "Unknown":
        """Do nothing with what a pickle adds or calls it with."""
        return self

    __call__ = __setitem__ = append = extend = add = ignore


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
        return _Unpickler(file, _IN_PICKLES).load()


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
    return _Unpickler(io.BytesIO(data), {}).load()


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
        return _Unpickler(file, _IN_PICKLES, encoding="latin1").load().item()


def is_zip(path: Path) -> bool:
    """Return whether a file begins as a zip archive does."""
    return _begins(path, _ZIP_MAGIC)


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _unpacked(path: Path) -> Any:
    return gzip.open(path) if _begins(path, _GZIP_MAGIC) else path.open("rb")


def _limited(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return an instruction that makes a tuple, unless hashing it takes long."""

    def load_limited(unpickler: Any) -> None:
        load(unpickler)
        made = unpickler.stack[-1]
        inside = [unpickler.nested.get(id(each), (1, 1, each)) for each in made if isinstance(each, tuple)]
        if not inside:
            return
        depths, sizes, _ = zip(*inside)
        unpickler.nested[id(made)] = depth, size, _ = 1 + max(depths), 1 + sum(sizes), made
        if depth > _MOST_NESTED:
            raise pickle.UnpicklingError(f"it holds tuples in tuples, {_MOST_NESTED} deep")
        if size > unpickler.file.tell():  # a tuple that others share is hashed for each of them
            raise pickle.UnpicklingError("it uses the same tuples again and again")

    return load_limited


def _load_setitem(unpickler: Any) -> None:
    """Set an item of a dictionary.

    An array would expand what lists hold many times.
    """
    _require_no_array(unpickler.stack[-3])
    pickle._Unpickler.load_setitem(unpickler)  # type: ignore[attr-defined]


def _load_setitems(unpickler: Any) -> None:
    """Set items of a dictionary."""
    _require_no_array(unpickler.metastack[-1][-1])
    pickle._Unpickler.load_setitems(unpickler)  # type: ignore[attr-defined]


def _require_no_array(made: Any) -> None:
    if isinstance(made, np.ndarray):
        raise pickle.UnpicklingError("it changes an array that is whole")


def _load_bytearray(unpickler: Any) -> None:
    """Load bytes; Python's own method allocates any number beforehand."""
    size = int.from_bytes(unpickler.read(8), "little")
    data = unpickler.read(size)
    if len(data) < size:
        raise EOFError
    unpickler.append(bytearray(data))


def _load_build(unpickler: Any) -> None:
    """Give a dtype or an empty array its state.

    Attributes of other objects are left out.
    """
    state = unpickler.stack.pop()
    made = unpickler.stack[-1]
    if isinstance(made, _Array | np.dtype):
        if not isinstance(state, tuple):
            raise pickle.UnpicklingError("it gives an array a state that is none")
        unpickler.count_copies(state)
        made.__setstate__(state)  # type: ignore[union-attr]
    else:
        _require_no_array(made)


def _load_call(unpickler: Any) -> None:
    """Call a class or function."""
    arguments = unpickler.stack.pop()
    unpickler._instantiate(unpickler.stack.pop(), arguments)


def _load_call_with_names(unpickler: Any) -> None:
    """Call a class; none that is known takes named arguments."""
    unpickler.stack.pop()
    _load_call(unpickler)


class _Unpickler(pickle._Unpickler):
    """An unpickler that knows the given classes and functions, by substitutes.

    It is the one in Python: the one in C makes as many slots as a file's largest number says.
    """

    dispatch = pickle._Unpickler.dispatch | {  # type: ignore[attr-defined]
        code[0]: _limited(pickle._Unpickler.dispatch[code[0]])  # type: ignore[attr-defined]
        for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
    }
    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray
    dispatch[pickle.BUILD[0]] = _load_build
    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]] = _load_setitem, _load_setitems
    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = _load_call
    dispatch[pickle.NEWOBJ_EX[0]] = _load_call_with_names
    for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):  # classes by number, which other code registers
        del dispatch[code[0]]

    def __init__(self, file: Any, known: dict[str, Any], storage: Any = None, **options: Any) -> None:
        self.lenient = options.pop("lenient", False)  # all else becomes `Unknown`
        super().__init__(file, **options)
        self.file, self.known, self.copied = file, known, 0
        self.storage = storage  # returns a storage of PyTorch's by kind, key and size
        # of a tuple of tuples by its id: how deep it is, how many tuples it holds, and itself
        self.nested: dict[int, tuple[int, int, tuple]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute for a class or function."""
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in self.known and not self.lenient:
            raise pickle.UnpicklingError(f"it holds an object of {full}, which could run code")
        return self.known[full] if full in self.known else Unknown(full)

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage `("storage", kind, key, device, size, view)`."""
        match pid:
            case ("storage", _Kind() | Unknown() as kind, str(key), _, int(size), *view) if self.storage:
                if any(view):
                    raise ValueError("it holds views of storages, as PyTorch before 0.4 wrote them")
                return self.storage(kind, key, size)
        if self.lenient:
            return Unknown("an object outside the pickle")
        raise pickle.UnpicklingError("it refers to an object outside")

    def count_copies(self, given: Any) -> None:
        """Limit what calls may copy.

        A file can give the same bytes to many. An array's bytes are counted twice, since old pickles hold
        them as text.
        """
        if not isinstance(given, tuple | list):
            raise pickle.UnpicklingError("it calls something without arguments")
        self.copied += sum(len(part) for part in given if isinstance(part, _COPIED))
        if self.copied > 2 * self.file.tell():
            raise pickle.UnpicklingError("it uses the same bytes again and again")

    def _instantiate(self, function: Any, arguments: Any) -> None:
        """Call a class or function, as Python does for OBJ and INST."""
        if not isinstance(function, Unknown):
            self.count_copies(arguments)
        self.append(function(*arguments))  # type: ignore[attr-defined]


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

    def storage(kind: _Kind | Unknown, key: str, size: int) -> Any:
        if isinstance(kind, Unknown):
            return kind
        if key not in places or size != places[key][1] // kind.dtype.itemsize:
            raise ValueError("it does not hold as many numbers as it says")
        start, _ = places[key]
        return _Storage(source, kind.dtype, start, size)

    return _Unpickler(io.BytesIO(described), known, storage, lenient=lenient, encoding="latin1").load()


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
    if _Unpickler(begin, {}).load() != _OLD_MAGIC:
        raise ValueError("it is not PyTorch's")
    for _ in ("version", "system"):
        _Unpickler(begin, {}).load()
    storages: dict[str, tuple[Any, int]] = {}

    def note(kind: _Kind | Unknown, key: str, size: int) -> None:
        storages[key] = kind, size

    first = begin.tell()
    _Unpickler(begin, _STORAGES, note, lenient=True, encoding="latin1").load()
    described = begin.getvalue()[first : begin.tell()]
    keys, places = _Unpickler(begin, {}).load(), {}
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


def _dictionary(*pairs: Any) -> dict[Any, Any]:
    if not all(isinstance(each, list) for each in pairs):  # lists are counted
        raise ValueError("it makes a dictionary from something else than pairs")
    return collections.OrderedDict(*pairs)


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that an old pickle holds as text."""
    if encoding != "latin1":
        raise ValueError(f"it holds text of the encoding {encoding}")
    return text.encode(encoding)


class _Array(np.ndarray):
    """An array whose numbers a pickle brings as its state."""

    def __setstate__(self, state: tuple) -> None:
        *_, shape, dtype, in_columns, content = state
        if self.size:
            raise ValueError("it gives an array two contents")
        if dtype.kind != "O":
            dtype = _require_numbers(dtype)
        elif isinstance(content, list) and len(content) == math.prod(shape):
            dtype = np.dtype("O")
        else:
            raise ValueError("it holds an array of objects that are not there")
        super().__setstate__((1, shape, dtype, in_columns, content))  # type: ignore[misc]


def _require_numbers(dtype: np.dtype) -> np.dtype:
    """Return a kind of numbers or texts, since objects would be addresses."""
    if dtype.kind not in "biufcSU" or not dtype.itemsize or dtype.fields or dtype.subdtype:
        raise ValueError(f"it holds an array of {dtype}")
    return np.dtype(dtype.str)  # a file may have changed the flags of its own


def _dtype(kind: Any, *_: Any) -> np.dtype:
    """Return a kind of numbers by its name.

    A list would describe any number of fields.
    """
    if not isinstance(kind, str) or len(kind) > _LONGEST_DTYPE:
        raise ValueError("it describes an array by something else than a name")
    return np.dtype(kind)


def _scalar(dtype: np.dtype, data: bytes = b"") -> Any:
    return multiarray.scalar(_require_numbers(dtype), data)


def _from_buffer(data: Any, dtype: np.dtype, *shape: Any) -> np.ndarray:
    return numeric._frombuffer(data, _require_numbers(dtype), *shape)  # type: ignore[attr-defined]


_STORAGES: dict[str, Any] = {
    f"torch.{name}Storage": _Kind(np.dtype(dtype))
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
_TENSORS = _STORAGES | {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
}
_ARRAYS = _TENSORS | {
    "_codecs.encode": _encode,
    "numpy.ndarray": None,  # `_reconstruct` is given it; called, it would take addresses from the file
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0, np.uint8).view(_Array),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}
_IN_PICKLES = _ARRAYS | {"torch.storage._load_from_bytes": _load}  # no files in files in files
