"""Rematerialisation by block: less memory in training for computing forward twice."""

from typing import Any

from flax import nnx


class Blocks(nnx.Module):
    """A row of blocks; with `nnx.view(model, remat=True)` the backward pass keeps only what joins them."""

    remat = False

    def set_view(self, remat: bool | None = None) -> None:
        """What `nnx.view` may change: whether the backward pass computes each block's inside again."""
        if remat is not None:
            self.remat = remat

    def call(self, block: nnx.Module, *args: Any, method: str = "__call__") -> Any:
        """`block(*args)`, or another method of it."""
        function = getattr(type(block), method)
        return (nnx.remat(function) if self.remat else function)(block, *args)
