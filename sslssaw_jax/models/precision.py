"""Which number format the matrix work runs in; parameters and statistics are always float32."""

import jax
import jax.numpy as jnp


def compute_dtype(name: str) -> jnp.dtype:
    """`float32`, `bfloat16`, or `auto`: bfloat16 on TPUs and on GPUs of compute capability 8.0."""
    if name != "auto":
        return jnp.dtype(name)
    device = jax.devices()[0]
    capable = device.platform == "gpu" and float(getattr(device, "compute_capability", "0")) >= 8.0
    return jnp.dtype("bfloat16" if capable or device.platform == "tpu" else "float32")
