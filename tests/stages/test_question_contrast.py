import jax
import numpy as np

from sslssaw_jax.stages.question_contrast import contrast
from tests.support.toy import assert_close


def test_a_contrast_is_a_softmax_of_the_right_and_two_wrong_ones() -> None:
    cosine = np.random.default_rng(2).uniform(-1, 1, (3, 3)).astype(np.float32)
    wrong = ~np.eye(3, dtype=bool)
    wrong[1, 0] = wrong[2, 0] = wrong[2, 1] = False
    loss, counts = contrast(cosine, wrong, jax.random.key(0))
    c = np.exp(cosine)
    assert_close(loss[0], -np.log(c[0, 0] / c[0].sum()))
    assert_close(loss[1], -np.log(c[1, 1] / (c[1, 1] + 2 * c[1, 2])))  # sees the only one twice
    np.testing.assert_array_equal(counts, [True, True, False])
    alone, counts = contrast(cosine[:1, :1], np.zeros((1, 1), bool), jax.random.key(0))
    assert np.isfinite(alone).all() and not counts.any()


def test_wrong_ones_are_drawn_anew_by_the_key_and_evenly() -> None:
    values = np.log(np.arange(1, 7, dtype=np.float32))  # the loss tells the pair
    cosine, wrong = np.tile(values, (6, 1)), ~np.eye(6, dtype=bool)
    losses = jax.vmap(lambda key: contrast(cosine, wrong, key)[0][0])(
        jax.random.split(jax.random.key(0), 600)
    )
    pairs = np.round(np.exp(np.asarray(losses)) - 1).astype(int)  # of 2 .. 6, without repetition
    assert set(pairs) == set(range(5, 12))
    np.testing.assert_allclose((pairs == 5).mean(), 0.1, atol=0.04)
    again = contrast(cosine, wrong, jax.random.key(3))[0]
    np.testing.assert_array_equal(again, contrast(cosine, wrong, jax.random.key(3))[0])
    filled = [np.pad(x, (0, 3)) for x in (cosine, wrong)]  # a batch that does not divide over the devices
    np.testing.assert_array_equal(again, contrast(*filled, jax.random.key(3))[0][:6])
