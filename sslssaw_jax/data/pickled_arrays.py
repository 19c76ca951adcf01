"""Tensors and arrays in pickles and in PyTorch files, read without torch; no code in a file runs.

Of all classes and functions that a pickle may name, only the few for tensors and arrays are known.
"""

import collections
import functools
import gzip
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy._core import multiarray, numeric

_MOST_NESTED = 100  # tuples: hashing deeper ones overflows the stack
_COPIED = (str, bytes, bytearray, list, dict)  # what calls may copy
_GZIP_MAGIC, _ZIP_MAGIC = b"\x1f\x8b", b"PK"
OLD_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
STORAGE_DTYPES = {  # by PyTorch's names for storages
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Kind(NamedTuple):
    """A kind of storage that a file names."""

    dtype: np.dtype[Any]


def read_pickle(path: Path) -> Any:
    """Read a pickle, gzipped or not, whose tensors become arrays.

    Raises:
        ValueError: The file is damaged, or holds an object that is neither data nor a tensor.
    """

    def load() -> Any:
        with _unpacked(path) as file:
            return _Unpickler(file).load()

    return _reading(load)


def read_plain_pickle(path: Path, most_bytes: int) -> Any:
    """Read a pickle of texts and numbers, gzipped or not.

    Raises:
        ValueError: The file is damaged, holds more bytes than `most_bytes`, or any other object.
    """

    def load() -> Any:
        with _unpacked(path) as file:
            data = file.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise ValueError(f"it holds more than {most_bytes:,} bytes")
        return _PlainUnpickler(io.BytesIO(data)).load()

    return _reading(load)


def read_torch(path: Path) -> Any:
    """Read what `torch.save` wrote in either of its formats, tensors as arrays.

    Raises:
        ValueError: As `read_pickle`.
    """
    return _reading(lambda: _load(path.read_bytes()))


def read_object(path: Path) -> Any:
    """Read the object that NumPy pickled into a `.npy` file.

    Python 2 may have written it.

    Raises:
        ValueError: As `read_pickle`.
    """

    def load() -> Any:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            return _Unpickler(file, encoding="latin1").load().item()

    return _reading(load)


def _reading(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except MemoryError:
        raise ValueError("it asks for more memory than there is") from None
    except Exception as error:  # damaged bytes can make any instruction fail in any way
        raise ValueError(f"it cannot be read: {error}") from error


def _unpacked(path: Path) -> Any:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    return gzip.open(path) if packed else path.open("rb")


def _limited(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return an instruction that makes a tuple, refused if nested too deep."""

    def load_limited(unpickler: Any) -> None:
        load(unpickler)
        made = unpickler.stack[-1]
        inside = [unpickler.nested.get(id(each), (1, made))[0] for each in made if isinstance(each, tuple)]
        if inside:
            unpickler.nested[id(made)] = 1 + max(inside), made
        if max(inside, default=0) >= _MOST_NESTED:
            raise pickle.UnpicklingError(f"it holds tuples in tuples, {_MOST_NESTED} deep")

    return load_limited


def _load_bytearray(unpickler: Any) -> None:
    """Load bytes; Python's own method allocates any number beforehand."""
    size = int.from_bytes(unpickler.read(8), "little")
    data = unpickler.read(size)
    if len(data) < size:
        raise EOFError
    unpickler.append(bytearray(data))


def _load_build(unpickler: Any) -> None:
    """Give an object its state, but not an array that is complete."""
    made = unpickler.stack[-2]
    if isinstance(made, np.ndarray) and not isinstance(made, _Array):
        raise pickle.UnpicklingError("it changes an array that is whole")
    pickle._Unpickler.dispatch[pickle.BUILD[0]](unpickler)  # type: ignore[attr-defined]


def _counted(load: Callable[[Any], None], *, takes_all: bool) -> Callable[[Any], None]:
    """Return an instruction that may copy what it is given, within limits.

    A file can give the same bytes to many calls. An array's bytes are counted twice: old pickles hold them
    as text.
    """

    def load_counted(unpickler: Any) -> None:
        for given in unpickler.stack if takes_all else unpickler.stack[-2:]:
            parts = given if isinstance(given, tuple) else (given,)
            unpickler.copied += sum(len(part) for part in parts if isinstance(part, _COPIED))
        if unpickler.copied > 2 * unpickler.file.tell():
            raise pickle.UnpicklingError("it uses the same bytes again and again")
        load(unpickler)

    return load_counted


class _Unpickler(pickle._Unpickler):
    """An unpickler of data, arrays and tensors.

    It is the one in Python: the one in C makes as many slots as a file's largest number says.
    """

    dispatch = pickle._Unpickler.dispatch | {  # type: ignore[attr-defined]
        code[0]: _limited(pickle._Unpickler.dispatch[code[0]])  # type: ignore[attr-defined]
        for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
    }
    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray
    dispatch[pickle.BUILD[0]] = _load_build
    for code in (pickle.BUILD, pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST):
        takes_all = code in (pickle.OBJ, pickle.INST)
        dispatch[code[0]] = _counted(dispatch[code[0]], takes_all=takes_all)
    storages: Callable[[_Kind, str, int], np.ndarray] | None = None  # of PyTorch's files

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, **options)
        self.file, self.copied = file, 0
        self.nested: dict[int, tuple[int, tuple]] = {}  # how deep a tuple of tuples is, by the tuple's id

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute for a class or function, if known."""
        known = f"{module}.{name}"
        if module == "torch" and name in STORAGE_DTYPES:
            return _Kind(np.dtype(STORAGE_DTYPES[name]))
        if known in _KNOWN and not (self.storages and _KNOWN[known] is _load):  # no files in files in files
            return _KNOWN[known]
        raise _unknown(module, name)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Return the storage `("storage", kind, key, device, size, view)`."""
        what, kind, key, _, size, *view = pid
        if self.storages is None or what != "storage" or not isinstance(kind, _Kind) or any(view):
            raise pickle.UnpicklingError("it refers to an object outside")
        return self.storages(kind, key, size)


class _PlainUnpickler(_Unpickler):
    """An unpickler that knows no class and no function, not even those of arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse a class or function."""
        raise _unknown(module, name)


def _unknown(module: str, name: str) -> Exception:
    return pickle.UnpicklingError(f"it holds an object of {module}.{name}, which could run code")


def _load(data: bytes) -> Any:
    return _load_zip(data) if data.startswith(_ZIP_MAGIC) else _load_old(data)


def _load_zip(data: bytes) -> Any:
    """Return the object in a file of PyTorch 1.6 or later."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
            raise ValueError("it is compressed, which PyTorch's files are not")
        if sum(one.file_size for one in archive.infolist()) > len(data):
            raise ValueError("its parts are longer than the file")

        @functools.cache
        def numbers(key: str) -> bytes:
            return archive.read(names[f"data/{key}"])

        def storage(kind: _Kind, key: str, size: int) -> np.ndarray:
            return np.frombuffer(numbers(key), kind.dtype, size)

        unpickler = _Unpickler(io.BytesIO(archive.read(names["data.pkl"])))
        unpickler.storages = storage
        return unpickler.load()


def _load_old(data: bytes) -> Any:
    """Return the object in a file from before PyTorch 1.6, numbers last."""
    file, found, left = io.BytesIO(data), dict[str, np.ndarray](), len(data)

    def storage(kind: _Kind, key: str, size: int) -> np.ndarray:
        nonlocal left
        if key not in found:
            left -= size * kind.dtype.itemsize
            if size < 0 or left < 0:
                raise ValueError("it ends within its numbers")
            found[key] = np.zeros(size, kind.dtype)
        return found[key]

    if _PlainUnpickler(file).load() != OLD_MAGIC:
        raise ValueError("it is not PyTorch's")
    for _ in ("version", "system"):
        _PlainUnpickler(file).load()
    unpickler = _Unpickler(file)
    unpickler.storages = storage
    whole = unpickler.load()
    for key in _PlainUnpickler(file).load():
        numbers = found[key]
        if int.from_bytes(file.read(8), "little") != len(numbers):
            raise ValueError("its storages do not have the sizes that it says")
        numbers[:] = np.frombuffer(file.read(numbers.nbytes), numbers.dtype, len(numbers))
    return whole


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return a view of a storage that is completely there."""
    if storage.ndim != 1 or not storage.flags.c_contiguous or storage.dtype.hasobject:
        raise ValueError("a tensor is made from something else than a storage")
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError("a tensor has a wrong shape")
    if not math.prod(shape):
        return np.zeros(shape, storage.dtype)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides))
    if last >= len(storage) or math.prod(shape) > len(storage):
        raise ValueError(f"a tensor of the shape {list(shape)} does not have as many numbers")
    in_bytes = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, in_bytes, writeable=False)


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
    if dtype.kind not in "biufcSU" or dtype.fields or dtype.subdtype:
        raise ValueError(f"it holds an array of {dtype}")
    return np.dtype(dtype.str)  # a file may have changed the flags of its own


def _scalar(dtype: np.dtype, data: bytes = b"") -> Any:
    return multiarray.scalar(_require_numbers(dtype), data)


def _from_buffer(data: Any, dtype: np.dtype, *shape: Any) -> np.ndarray:
    return numeric._frombuffer(data, _require_numbers(dtype), *shape)  # type: ignore[attr-defined]


_KNOWN: dict[str, Any] = {
    "_codecs.encode": _encode,
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch.storage._load_from_bytes": _load,
    "numpy.ndarray": None,  # `_reconstruct` is given it; called, it would take addresses from the file
    "numpy.dtype": np.dtype,
} | {
    f"numpy.{core}.{name}": function
    for core in ("core", "_core")
    for name, function in (
        ("multiarray._reconstruct", lambda *_: np.empty(0, np.uint8).view(_Array)),
        ("multiarray.scalar", _scalar),
        ("numeric._frombuffer", _from_buffer),
    )
}
