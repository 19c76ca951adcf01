"""The number format of matrix products; parameters and statistics are always float32."""

import re
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

# NVIDIA from Ampere on; AMD, whose capabilities are names, from CDNA and RDNA 3 on
_WITH_BFLOAT16 = re.compile(r"[89]\.|\d\d\.|gfx(908|90a|94|95|11|12)")


def compute_dtype(name: str) -> jnp.dtype:
    """Return a format by name; `auto` is bfloat16 where hardware has it."""
    if name != "auto":
        return jnp.dtype(name)
    device = jax.devices()[0]
    capable = device.platform == "gpu" and _WITH_BFLOAT16.match(getattr(device, "compute_capability", ""))
    return jnp.dtype("bfloat16" if capable or device.platform == "tpu" else "float32")


FloatLinear = partial(nnx.Linear, preferred_element_type=jnp.float32)
"""A linear layer whose output keeps the float32 of its sums, for logits and gates."""


class Embed(nnx.Embed):
    """An embedding whose rows are cast once they are looked up.

    `nnx.Embed` casts its whole table first, so the gradients of a frequent token are summed in `dtype`:
    with 8 bits, each further gradient is lost in the sum of a few hundred.
    """

    def __call__(self, ids: jax.Array) -> jax.Array:  # type: ignore[override]
        """Return the rows of ids."""
        return jnp.take(self.embedding[...], ids, axis=0).astype(self.dtype)
