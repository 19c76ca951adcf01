import jax
import numpy as np
from flax import nnx

from sslssaw_jax.models.keys import Keys


def test_the_keys_are_those_of_nnx_traced_or_not():
    def draw(rngs):
        return jax.random.key_data(jax.numpy.stack([rngs.params(), rngs.params(), rngs.dropout(), rngs()]))

    expected = draw(nnx.Rngs(7))
    np.testing.assert_array_equal(draw(Keys(jax.random.key(7))), expected)
    np.testing.assert_array_equal(jax.jit(lambda key: draw(Keys(key)))(jax.random.key(7)), expected)
