"""Rematerialization by block: less memory for a second forward pass."""

from typing import Any

from flax import nnx


class Blocks(nnx.Module):
    """A sequence of blocks, recomputed in the backward pass with `nnx.view(model, remat=True)`."""

    remat = False

    def set_view(self, remat: bool | None = None) -> None:
        """Set whether the backward pass recomputes each block; `nnx.view` calls this."""
        if remat is not None:
            self.remat = remat

    def call(self, block: nnx.Module, *args: Any, method: str = "__call__") -> Any:
        """Call a block, or another method of it, with rematerialization if set."""
        function = getattr(type(block), method)
        return (nnx.remat(function) if self.remat else function)(block, *args)
