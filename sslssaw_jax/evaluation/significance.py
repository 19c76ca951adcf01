"""Confidence intervals of scores and p-values of their differences, by paired bootstrap.

1,000 resamples of the clips (Koehn, 2004) are scored as `metrics.score` does. The resamples and the intervals
are sacrebleu's; the p-value is not, since that of its `PairedTest` is nearly one-sided, a third to two thirds
of the two-sided one. The result is deterministic; the environment variable `SACREBLEU_SEED` chooses other
resamples. The bootstrap covers the choice of the test clips, but not the spread between training seeds.

C clips, R resamples, K statistics whose sums make a score.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from sacrebleu.significance import estimate_ci

from sslssaw_jax.data.text import tokens
from sslssaw_jax.evaluation.metrics import raw_bleu, rouge_l

RESAMPLES = 1000


class Significance(NamedTuple):
    """The 95 % interval of a system's score, and the p-value of its difference from the baseline."""

    low: float  # the mean of the resamples minus half the width of their middle 95 %
    high: float
    p_value: float  # two-sided; 1 for the baseline itself


class Resampled(NamedTuple):
    """A system's score on all clips, and on each resample of them."""

    score: float
    resamples: np.ndarray  # f64[R]

    def against(self, baseline: "Resampled") -> Significance:
        """Return the interval, and the p-value of the difference from a baseline."""
        mean, half = estimate_ci(self.resamples)
        # what the difference would be if there were none, at least as far from 0 as the one that there is
        change = self.resamples - baseline.resamples
        extreme = abs(change - change.mean()) >= abs(self.score - baseline.score)
        p_value = (extreme.sum() + 1) / (len(change) + 1)
        if not (np.ptp(self.resamples) or np.ptp(baseline.resamples)):
            p_value = 1.0  # a single clip, or clips that are all alike, tell nothing about others
        return Significance(max(0.0, float(mean - half)), min(100.0, float(mean + half)), float(p_value))


def draw(clips: int, groups: Sequence[str] | None = None) -> np.ndarray:
    """Draw resamples; return how often each holds each clip, i[R, C].

    Args:
        clips: C.
        groups: One name a clip, if clips of one name are drawn together since they are not independent.
    """
    if groups:
        names, place_C = np.unique(groups, return_inverse=True)
        return draw(len(names))[:, place_C]
    seed = os.environ.get("SACREBLEU_SEED", "12345")
    rng = np.random.default_rng(None if seed.lower() == "none" else int(seed))
    drawn_RxC = rng.choice(clips, (RESAMPLES, clips))
    return np.stack([np.bincount(row, minlength=clips) for row in drawn_RxC])


def resampled_bleu(texts: Sequence[str], references: Sequence[Sequence[str]], drawn: np.ndarray) -> Resampled:
    """Return BLEU-4 of texts whose tokens stand between spaces.

    Args:
        texts: One translation a clip.
        references: Sets of references, each with one a clip.
        drawn: The resamples, see `draw`.
    """
    bleu = raw_bleu(4)
    counts_CxK = np.array(bleu._extract_corpus_statistics(texts, references))
    return _resampled(counts_CxK, lambda sums: bleu._compute_score_from_stats(sums.tolist()).score, drawn)


def _resampled(counts_CxK: np.ndarray, score: Callable[[np.ndarray], float], drawn: np.ndarray) -> Resampled:
    return Resampled(score(counts_CxK.sum(axis=0)), np.array([score(sums) for sums in drawn @ counts_CxK]))


def paired_bootstrap(
    baseline: Sequence[str],
    systems: Sequence[Sequence[str]],
    targets: Sequence[str],
    *,
    characters: bool = False,
    groups: Sequence[str] | None = None,
) -> list[dict[str, Significance]]:
    """Compare the `bleu4` and `rouge_l` of systems with a baseline's.

    Args:
        baseline: The baseline's translations, one per clip.
        systems: The translations of each system, for the same clips in the same order.
        targets: One reference per clip.
        characters: Whether to count characters instead of words, see `metrics.score`.
        groups: What is resampled in place of the clips, see `draw`.

    Returns:
        One dictionary for the baseline, whose p-values are 1, then one for each system.

    Raises:
        ValueError: There are no clips, or not one translation for each.
    """
    texts = [baseline, *systems]
    if not targets or any(len(translations) != len(targets) for translations in texts):
        lengths = ", ".join(str(len(translations)) for translations in texts)
        raise ValueError(f"{lengths} translations for {len(targets)} targets; one is needed for each")
    drawn, references = draw(len(targets), groups), [tokens(target, characters) for target in targets]
    joined = [[" ".join(words) for words in references]]
    found: list[dict[str, Resampled]] = []
    for translations in texts:
        hypotheses = [tokens(text, characters) for text in translations]
        rouge_Cx1 = np.array([[rouge_l(*pair)] for pair in zip(hypotheses, references)])
        found.append(
            {
                "bleu4": resampled_bleu([" ".join(words) for words in hypotheses], joined, drawn),
                "rouge_l": _resampled(rouge_Cx1, lambda sums: 100 * sums[0] / len(targets), drawn),
            }
        )
    return [{metric: one.against(found[0][metric]) for metric, one in each.items()} for each in found]


def confidence_interval(
    predictions: Sequence[str],
    targets: Sequence[str],
    *,
    characters: bool = False,
    groups: Sequence[str] | None = None,
) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of `bleu4` and `rouge_l`; see `paired_bootstrap`."""
    (alone,) = paired_bootstrap(predictions, [], targets, characters=characters, groups=groups)
    return {metric: (each.low, each.high) for metric, each in alone.items()}


def compare(
    system: Sequence[str], baseline: Sequence[str], targets: Sequence[str], *, characters: bool = False
) -> dict[str, float]:
    """Return the p-values of the differences in `bleu4` and `rouge_l`; see `paired_bootstrap`."""
    _, compared = paired_bootstrap(baseline, [system], targets, characters=characters)
    return {metric: each.p_value for metric, each in compared.items()}
