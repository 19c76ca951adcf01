"""Whether a model has understood a clip: the lowest score of sentences worth reading."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sslssaw_jax.data.text import counts_characters
from sslssaw_jax.evaluation.predictions import Prediction, rouge_l

UNDERSTANDING = "understanding"  # in the scores of dev
RARE = 0.01  # share of dev's clips below the threshold if the sentences without video set none


@dataclass(frozen=True)
class Understanding:
    """A threshold for the score, with the figures it comes from."""

    threshold: float  # a sentence with a lower score is not understood
    rule: Literal["no better than without video", "lowest of dev"]
    rouge_l: float  # of dev's clips
    rouge_l_without_video: float
    rejected: float  # share of dev's clips
    rejected_without_video: float
    shortest: int = 0  # frames; a shorter clip is not understood


def find_understanding(
    predictions: Sequence[Prediction], without_video: Sequence[Prediction], num_frames: Sequence[int]
) -> Understanding:
    """Find a model's threshold by the clips of dev; see `find_threshold`.

    Args:
        predictions: The model's translations.
        without_video: Its translations of the same clips with black frames.
        num_frames: Of the clips that the model knows; 0 without a video.
    """
    characters = counts_characters(row.target for row in predictions)
    both = (predictions, without_video)
    scores = [[row.score for row in rows] for rows in both]
    qualities = [[rouge_l(row, characters) for row in rows] for rows in both]
    shortest = min(filter(None, num_frames), default=0)
    found = find_threshold(scores[0], qualities[0], scores[1], qualities[1])
    return replace(found, shortest=shortest)


def find_threshold(
    scores: Sequence[float],
    rouge_l: Sequence[float],
    scores_without_video: Sequence[float],
    rouge_l_without_video: Sequence[float],
) -> Understanding:
    """Find the score below which sentences are no better than without video.

    The sentences with and without video are sorted by their scores. From the lowest score upwards, their mean
    ROUGE-L is followed: the threshold lies after the last place where the mean of all sentences so far is at
    most that without video. If there is no such place, the lowest `RARE` share of the scores with video is
    not understood.

    Args:
        scores: Of a model's sentences for the clips of dev.
        rouge_l: Of the same sentences, in percent.
        scores_without_video: Of the model's sentences for the same clips with black frames.
        rouge_l_without_video: Of these sentences.
    """
    with_video, without = np.array(scores), np.array(scores_without_video)
    level = float(np.mean(rouge_l_without_video))
    joint = np.concatenate([with_video, without])
    order = np.argsort(joint, kind="stable")
    quality = np.concatenate([rouge_l, rouge_l_without_video])[order]
    means = np.cumsum(quality) / np.arange(1, len(quality) + 1)
    low = np.flatnonzero(means <= level + 1e-9)
    in_order = joint[order]
    if len(low):
        rule: Literal["no better than without video", "lowest of dev"] = "no better than without video"
        last = low[-1]
        # the score is a log-probability: none reaches 0, and all are rejected
        threshold = float(in_order[last : last + 2].mean()) if last + 1 < len(joint) else 0.0
    else:
        rule, threshold = "lowest of dev", float(np.quantile(with_video, RARE))
    return Understanding(
        threshold,
        rule,
        float(np.mean(rouge_l)),
        level,
        float((with_video < threshold).mean()),
        float((without < threshold).mean()),
    )
