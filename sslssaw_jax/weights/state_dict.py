"""State dicts saved by PyTorch, their tensors read one by one; torch is not needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslssaw_jax.data.pickled_arrays import Tensor, is_zip, open_torch
from sslssaw_jax.data.unpickler import Unknown
from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.workdir import describe


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
        try:
            found = open_torch(path)
        except ValueError as error:
            known = "" if is_zip(path) else describe(path)
            remedy = "" if known else "; download it again, or save it anew as float32"
            reason = known or str(error).removeprefix("it cannot be read: ")
            raise WeightsError(f"{path} cannot be read: {reason}{remedy}") from error
        self._tensors = self._find(found, entries)
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    def _find(self, found: Any, entries: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors in a file's object by name."""
        top = self._items(found)
        groups = {f"{entry}.": top[entry] for entry in entries if entry in top} if entries else {"": top}
        named = {
            prefix + key: value
            for prefix, group in groups.items()
            for key, value in self._items(group).items()
        }
        if others := [key for key, value in named.items() if not isinstance(value, Tensor)]:
            kinds = {value.name for value in named.values() if isinstance(value, Unknown)}
            raise WeightsError(
                f"{self.path} is not a plain state dict: {', '.join(others[:6])} hold no tensor"
                + (f" but {', '.join(sorted(kinds)[:3])}; save it dense, as float32" if kinds else "")
            )
        return named

    def _items(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            kind = found.name if isinstance(found, Unknown) else type(found).__name__
            raise WeightsError(f"{self.path} is not a plain state dict: it holds {kind}")
        return {key: value for key, value in found.items() if isinstance(key, str)}

    def read(self, name: str) -> np.ndarray:
        """Read a tensor.

        Raises:
            WeightsError: The file ends within it.
        """
        try:
            return np.asarray(self._tensors[name].read(), order="C")
        except ValueError as error:
            raise WeightsError(f"{self.path} ends within {name}; download it again") from error
