"""Random keys of a model's variables."""

import jax
from flax import nnx


class _Stream(nnx.RngStream):
    """A stream of keys that is counted in Python."""

    def __init__(self, key: jax.Array | int):
        super().__init__(key, tag="default")
        self.drawn = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.drawn)
        self.drawn += 1
        return key


class Keys(nnx.Rngs):
    """The keys that `nnx.Rngs(key)` gives, for making a model.

    `nnx.Rngs` counts in an array. Under `jit`, Flax asks each new count for its sharding, and JAX then
    searches everything traced so far: the time grows with the square of the number of variables.
    """

    def __init__(self, key: jax.Array | int):
        self.default = _Stream(key)
