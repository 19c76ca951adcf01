"""The unpickler for files from others: no code in a file runs.

Of all classes and functions that a pickle may name, only the given ones are known, each replaced by one from
here. Nothing can ask for more memory than the file has bytes.
"""

import collections
import math
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy._core import multiarray, numeric

_MOST_NESTED = 100  # tuples: hashing deeper ones overflows the stack
_LONGEST_DTYPE = 16  # characters, such as "<U1000000"
_COPIED = (str, bytes, bytearray, list, dict)  # what calls may copy


class StorageKind(NamedTuple):
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


class Unpickler(pickle._Unpickler):
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
            case ("storage", StorageKind() | Unknown() as kind, str(key), _, int(size), *view) if (
                self.storage
            ):
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


DICTIONARIES: dict[str, Any] = {"collections.OrderedDict": _dictionary}
ARRAYS: dict[str, Any] = DICTIONARIES | {
    "_codecs.encode": _encode,
    "numpy.ndarray": None,  # `_reconstruct` is given it; called, it would take addresses from the file
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0, np.uint8).view(_Array),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}
"""What `find_class` may know: full name -> substitute."""
