"""Glosses of a split get their clips, their order and their times; no model is compiled."""

from types import SimpleNamespace

import numpy as np
import pytest

from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.evaluation.split_recognizer import GlossPrediction, SplitRecognizer

GLOSSES = GlossVocabulary(("RAIN", "NORTH"))
BLANK, RAIN, NORTH = 0, 2, 3
CLIPS = SimpleNamespace(
    split="dev",
    clips=[
        SimpleNamespace(id="features", gloss="RAIN", num_frames=0),
        SimpleNamespace(id="video", gloss="RAIN NORTH", num_frames=12),
    ],
)


def recognized(beams: int, paths: list[list[int]]) -> list[GlossPrediction]:
    """Glosses of clips 1 and 0 and of a row without a clip, each with a sure path and padding behind it."""
    log_probs = np.log(np.full((3, 6, GLOSSES.size), 0.01))
    mask = np.zeros((3, 6), bool)
    for row, path in enumerate(paths):
        log_probs[row, np.arange(len(path)), path] = np.log(0.97)
        mask[row, : len(path)] = True
    log_probs[~mask, NORTH] = np.log(0.97)  # of padding
    batch = SimpleNamespace(valid=np.array([True, True, False]), index=np.array([1, 0, -1]))
    result = SimpleNamespace(log_probs=log_probs, mask=mask)
    runner = SimpleNamespace(
        stage=SimpleNamespace(recognition=True),
        config=SimpleNamespace(decode=SimpleNamespace(beams=beams)),
        glosses=GLOSSES,
        compile=lambda *_, **__: None,
        over=lambda *_, **__: [(batch, result)],
    )
    return SplitRecognizer(runner, fps=4.0)(None, CLIPS)


@pytest.mark.parametrize("beams", [1, 3])
def test_glosses_have_their_clip_and_their_seconds_in_it(beams: int) -> None:
    """Four positions of a clip of three seconds: each takes three quarters of a second."""
    features, video = recognized(beams, [[RAIN, RAIN, BLANK, NORTH], [RAIN, BLANK], [NORTH]])
    assert (features.id, features.glosses, features.prediction) == ("features", "RAIN", "RAIN")
    assert (video.id, video.glosses, video.prediction) == ("video", "RAIN NORTH", "RAIN NORTH")
    assert video.times == [(0.0, 1.5), (2.25, 3.0)]
    assert features.times == [], "a clip without frames has no seconds"
    assert video.score == pytest.approx(4 * np.log(0.97), abs=0.05)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_gloss_counts_twice_only_after_a_blank(beams: int) -> None:
    _, video = recognized(beams, [[RAIN, RAIN, BLANK, RAIN, NORTH], [BLANK], []])
    assert video.prediction == "RAIN RAIN NORTH"
