import jax
import numpy as np
import pytest

from sslssaw_jax.stages.alignment import aligned_cosine, words_cosine
from tests.support.pytorch import torch
from tests.support.toy import assert_close

LENGTHS, OTHER_LENGTHS, D = (7, 3, 1), (4, 9, 2, 1), 6


def padded(rng: np.random.Generator, lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Random sequences with noise after them, and their masks."""
    longest = max(lengths)
    mask = np.arange(longest) < np.array(lengths)[:, None]
    return rng.normal(size=(len(lengths), longest, D)).astype(np.float32), mask


@pytest.fixture
def kept():
    return padded(np.random.default_rng(0), LENGTHS)


@pytest.fixture
def stretched():
    return padded(np.random.default_rng(1), OTHER_LENGTHS)


def test_pairs_are_interpolated_as_torch_does(kept, stretched):
    expected = np.empty((len(LENGTHS), len(OTHER_LENGTHS)))
    for i, length in enumerate(LENGTHS):
        for j, other in enumerate(OTHER_LENGTHS):
            sequence = torch.from_numpy(stretched[0][j : j + 1, :other]).transpose(1, 2)
            same = torch.nn.functional.interpolate(sequence, size=length, mode="linear", align_corners=False)
            own = torch.from_numpy(kept[0][i : i + 1, :length]).transpose(1, 2)
            expected[i, j] = torch.cosine_similarity(own, same, dim=1).mean()
    assert_close(aligned_cosine(*kept, *stretched), expected)


def test_no_interpolated_sequence_is_held(kept, stretched):
    """Nothing in the program, or in its gradient, has positions and features of every pair."""
    program = str(jax.make_jaxpr(jax.grad(lambda x: aligned_cosine(x, kept[1], *stretched).sum()))(kept[0]))
    (batch, length), clips = kept[1].shape, len(stretched[0])
    assert f"[{batch},{clips},{length}," in program
    assert f"[{batch},{clips},{length},{D}]" not in program


def test_padding_changes_nothing(kept, stretched):
    more = [np.pad(x, ((0, 0), (0, 2)) + ((0, 0),) * (x.ndim - 2)) for x in (*kept, *stretched)]
    assert_close(aligned_cosine(*more), aligned_cosine(*kept, *stretched))


def test_a_row_without_positions_has_a_finite_gradient(kept, stretched):
    none = np.zeros_like(kept[1])
    gradient = jax.grad(lambda x: aligned_cosine(x, none, *stretched).sum())(np.zeros_like(kept[0]))
    assert np.isfinite(gradient).all()


def test_sentences_are_alike_by_the_words_that_they_share():
    """In any order; padding, `</s>`, the language code and absent texts have no part in it."""
    end, language = 2, 4
    texts = [[7, 8, 8, end, language], [8, 7, end, language, 7], [9, end, language, 7, 8], [7, 7, 7, 7, 7]]
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    some = 3 / np.sqrt(5 * 2)
    expected = np.array([[1, some, 0, 0], [some, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert_close(words_cosine(np.array(texts), mask), expected)
