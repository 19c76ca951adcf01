from itertools import groupby, product

import numpy as np
import pytest

from sslssaw_jax.evaluation.gloss_decoding import align, prefix_beam

RNG = np.random.default_rng(0)


def paths_by_sequence(log_probs: np.ndarray) -> dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]]:
    """Map each gloss sequence to the log-probabilities of all its paths, with the paths."""
    found: dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]] = {}
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        sequence = tuple(one for one, _ in groupby(path) if one)
        found.setdefault(sequence, []).append((log_probs[np.arange(len(path)), path].sum(), path))
    return found


def draw(positions: int, glosses: int) -> np.ndarray:
    scores = RNG.normal(size=(positions, glosses)) * 2
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@pytest.mark.parametrize(("positions", "glosses"), [(1, 3), (5, 4), (6, 3)])
def test_a_wide_prefix_beam_is_an_exhaustive_search(positions: int, glosses: int) -> None:
    log_probs = draw(positions, glosses)
    expected = {
        sequence: np.logaddexp.reduce([score for score, _ in paths])
        for sequence, paths in paths_by_sequence(log_probs).items()
    }
    found = prefix_beam(log_probs, beams=10_000)
    assert dict(found).keys() == expected.keys()
    for sequence, score in found:
        assert score == pytest.approx(expected[sequence])
    assert found[0][0] == max(expected, key=expected.__getitem__)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)


def test_a_narrow_beam_finds_clear_glosses_and_joins_no_repeat() -> None:
    path = [1, 1, 0, 1, 2, 2, 0]
    log_probs = np.log(np.full((len(path), 3), 0.05) + 0.85 * np.eye(3)[path])
    found = prefix_beam(log_probs, beams=2)
    assert len(found) == 2 and found[0][0] == (1, 1, 2)


@pytest.mark.parametrize("glosses", [(), (1,), (1, 2, 1), (2, 2), (1, 1, 2)])
def test_an_alignment_is_the_best_of_all_paths(glosses: tuple[int, ...]) -> None:
    log_probs = draw(6, 3)
    score, path = max(paths_by_sequence(log_probs)[glosses])
    places = align(log_probs, glosses)
    ids = np.array([*glosses, 0])[places]
    assert log_probs[np.arange(6), ids].sum() == pytest.approx(score)
    assert tuple(ids) == path
    assert [place for place, _ in groupby(places[places >= 0])] == list(range(len(glosses)))


def test_too_few_positions_for_the_glosses_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 positions are too few"):
        align(draw(2, 3), (1, 1))
