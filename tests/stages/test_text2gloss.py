import numpy as np

from sslssaw_jax.data.glosses import BLANK, UNKNOWN
from sslssaw_jax.stages.text2gloss import gloss_stream
from tests.support.toy import toy_batch


def test_glosses_stand_between_blanks_and_unknown_ones_are_not_scored():
    gloss = np.array([[3, UNKNOWN, 2], [4, 0, 0], [9, 9, 9]], np.int32)
    mask = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    stream = gloss_stream(toy_batch(0, clips=3).replace(gloss=gloss, gloss_mask=mask))
    np.testing.assert_array_equal(stream.tokens[0][:4], [BLANK, 3, UNKNOWN, 2])
    np.testing.assert_array_equal(stream.labels[0][:4], [3, UNKNOWN, 2, BLANK])
    np.testing.assert_array_equal(stream.scored[0], [True, False, True, True, False])
    np.testing.assert_array_equal(stream.labels[1][stream.scored[1]], [4, BLANK])
    assert not stream.scored[2].any() and not stream.mask[2].any(), "a clip without glosses teaches none"
