"""The number format of matrix products; parameters and statistics are always float32."""

import jax
import jax.numpy as jnp


def compute_dtype(name: str) -> jnp.dtype:
    """Return a format by name; `auto` is bfloat16 where hardware has it."""
    if name != "auto":
        return jnp.dtype(name)
    device = jax.devices()[0]
    capable = device.platform == "gpu" and float(getattr(device, "compute_capability", "0")) >= 8.0
    return jnp.dtype("bfloat16" if capable or device.platform == "tpu" else "float32")
