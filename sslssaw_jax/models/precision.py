"""The number format of matrix products; parameters and statistics are always float32."""

import jax
import jax.numpy as jnp
from flax import nnx


def compute_dtype(name: str) -> jnp.dtype:
    """Return a format by name; `auto` is bfloat16 where hardware has it."""
    if name != "auto":
        return jnp.dtype(name)
    device = jax.devices()[0]
    capable = device.platform == "gpu" and float(getattr(device, "compute_capability", "0")) >= 8.0
    return jnp.dtype("bfloat16" if capable or device.platform == "tpu" else "float32")


class Embed(nnx.Embed):
    """An embedding whose rows are cast once they are looked up.

    `nnx.Embed` casts its whole table first, so the gradients of a frequent token are summed in `dtype`:
    with 8 bits, each further one is lost in the sum of a few hundred.
    """

    def __call__(self, ids: jax.Array) -> jax.Array:  # type: ignore[override]
        """Return the rows of ids."""
        return jnp.take(self.embedding[...], ids, axis=0).astype(self.dtype)
