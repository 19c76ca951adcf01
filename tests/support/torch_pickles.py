"""PyTorch's output, byte by byte and without torch: tensors in pickles, and files of both formats."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Name:
    """A class or function of another package."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:  # so that a pickler takes it for a function
        raise AssertionError


class Call:
    """A call that the unpickler makes."""

    def __init__(self, function: Name, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Storage:
    """A storage, which a file keeps separate from its pickle."""

    def __init__(self, key: str, numbers: np.ndarray) -> None:
        self.key, self.numbers = key, numbers

    @property
    def reference(self) -> tuple[Any, ...]:
        kind = {"f4": "FloatStorage", "f2": "HalfStorage"}[self.numbers.dtype.str[1:]]
        return "storage", Name("torch", kind), self.key, "cpu", self.numbers.size, None


class Pickler(pickle._Pickler):  # type: ignore[name-defined]
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        return obj.reference if isinstance(obj, Storage) else None


def dumps(obj: Any, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol).dump(obj)
    return file.getvalue()


def _tensor(storage: Any, array: np.ndarray) -> Call:
    array = np.ascontiguousarray(array)
    strides = tuple(step // array.itemsize for step in array.strides)
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, 0, array.shape, strides, False, OrderedDict())


def old_file(make: Callable[[Callable[[np.ndarray], Any]], Any]) -> bytes:
    """Return a file from before PyTorch 1.6; `make` gets a function that makes a tensor."""
    storages: list[Storage] = []
    whole = make(lambda array: _tensor(_kept(storages, array), array))
    pickles = [dumps(part) for part in (MAGIC, VERSION, SYSTEM, whole, [each.key for each in storages])]
    numbers = [each.numbers.size.to_bytes(8, "little") + each.numbers.tobytes() for each in storages]
    return b"".join([*pickles, *numbers])


def new_file(make: Callable[[Callable[[np.ndarray], Any]], Any]) -> bytes:
    """Return a file of PyTorch 1.6 or later."""
    storages: list[Storage] = []
    whole, file = make(lambda array: _tensor(_kept(storages, array), array)), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", dumps(whole))
        for each in storages:
            archive.writestr(f"archive/data/{each.key}", each.numbers.tobytes())
    return file.getvalue()


def in_pickle(array: np.ndarray, file: Callable[..., bytes]) -> Call:
    """Return a tensor as in a plain pickle: its storage is a file in bytes."""
    if file is old_file:
        storage = Storage("0", array.ravel())
        pickles = [dumps(part) for part in (MAGIC, VERSION, SYSTEM, storage, ["0"])]
        data = b"".join([*pickles, array.size.to_bytes(8, "little"), array.tobytes()])
    else:
        storage, zipped = Storage("0", array.ravel()), io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("archive/data.pkl", dumps(storage))
            archive.writestr("archive/data/0", array.tobytes())
        data = zipped.getvalue()
    return _tensor(Call(Name("torch.storage", "_load_from_bytes"), data), array)


def _kept(storages: list[Storage], array: np.ndarray) -> Storage:
    storages.append(Storage(str(len(storages)), array.ravel()))
    return storages[-1]
