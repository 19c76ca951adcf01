"""The threshold of understanding, on handmade scores."""

import pytest

from sslssaw_jax.evaluation.predictions import Prediction
from sslssaw_jax.evaluation.understanding import find_threshold, find_understanding


@pytest.mark.parametrize(
    ("with_video", "without", "threshold", "rejected", "rejected_without"),
    [
        # all are better with video: halfway between the worst with it and the best without
        ({-0.1: 100, -0.2: 90, -0.4: 80}, {-1.0: 20, -0.9: 40, -0.7: 30}, -0.55, 0, 1),
        # one is as bad as without video
        ({-0.1: 100, -0.2: 90, -0.8: 10}, {-1.0: 20, -0.9: 40, -0.7: 30}, -0.45, 1 / 3, 1),
        # a lucky sentence without video does not reject those that are good with video
        ({-0.1: 100, -0.2: 90, -0.4: 80}, {-1.0: 20, -0.9: 10, -0.15: 60}, -0.65, 0, 2 / 3),
        # the video never helps: nothing is understood
        ({-0.1: 30, -0.2: 30, -0.4: 30}, {-0.3: 30, -0.2: 30, -0.1: 30}, 0.0, 1, 1),
    ],
)
def test_below_the_threshold_sentences_are_no_better_than_without_video(
    with_video, without, threshold, rejected, rejected_without
) -> None:
    found = find_threshold([*with_video], [*with_video.values()], [*without], [*without.values()])
    assert found.rule == "no better than without video"
    assert found.threshold == pytest.approx(threshold)
    assert found.rejected == pytest.approx(rejected)
    assert found.rejected_without_video == pytest.approx(rejected_without)


def test_a_score_that_says_nothing_gives_a_low_quantile_and_says_so() -> None:
    scores = [-3.0 + place / 100 for place in range(101)]
    found = find_threshold(scores, [90.0] * 101, [-0.1, -0.2], [10.0, 10.0])
    assert found.rule == "lowest of dev"
    assert found.threshold == pytest.approx(-2.99)
    assert (found.rouge_l, found.rouge_l_without_video) == (90.0, 10.0)


def test_sentences_of_the_video_are_judged_against_those_of_black_frames() -> None:
    def said(*sentences: tuple[str, float]) -> list[Prediction]:
        return [Prediction("", "", "a b c d", text, score) for text, score in sentences]

    seen, black = said(("a b c d", -0.1), ("a b c x", -0.4)), said(("x", -1.0), ("a x y z", -0.7))
    found = find_understanding(seen, black, [31, 0, 26, 28])
    assert (found.rouge_l, found.rouge_l_without_video) == (pytest.approx(87.5), pytest.approx(12.5))
    assert found.threshold == pytest.approx(-0.55)
    assert (found.rejected, found.rejected_without_video) == (0, 1)
    assert found.shortest == 26, "a clip of text alone has no frames"
