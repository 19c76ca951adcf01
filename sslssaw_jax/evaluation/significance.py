"""Confidence intervals of scores and p-values of their differences, by paired bootstrap.

sacrebleu's `PairedTest` draws 1,000 resamples of the clips (Koehn, 2004) and scores each as `metrics.score`
does. The result is deterministic; the environment variable `SACREBLEU_SEED` changes the resamples. The
bootstrap covers the choice of the test clips, but not the spread between seeds of the training.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics.base import Metric, Score
from sacrebleu.significance import PairedTest

from sslssaw_jax.data.text import tokens
from sslssaw_jax.evaluation.metrics import raw_bleu, rouge_l


class Significance(NamedTuple):
    """The 95 % interval of a system's score, and the p-value of its difference from the baseline."""

    low: float  # the mean of the resamples minus half the width of their middle 95 %
    high: float
    p_value: float  # two-sided; 1 for the baseline itself


def paired_bootstrap(
    baseline: Sequence[str],
    systems: Sequence[Sequence[str]],
    targets: Sequence[str],
    *,
    characters: bool = False,
) -> list[dict[str, Significance]]:
    """Compare the `bleu4` and `rouge_l` of systems with a baseline's.

    Args:
        baseline: The baseline's translations, one per clip.
        systems: The translations of each system, for the same clips in the same order.
        targets: One reference per clip.
        characters: Whether to count characters instead of words, see `metrics.score`.

    Returns:
        One dictionary for the baseline, whose p-values are 1, then one for each system.

    Raises:
        ValueError: There are no clips, or not one translation for each.
    """
    texts = [baseline, *systems]
    if not targets or any(len(translations) != len(targets) for translations in texts):
        lengths = ", ".join(str(len(translations)) for translations in texts)
        raise ValueError(f"{lengths} translations for {len(targets)} targets; one is needed for each")
    named: list[tuple[str, Sequence[str]]]
    named = [(str(place), _joined(translations, characters)) for place, translations in enumerate(texts)]
    test = PairedTest(
        named,
        {"bleu4": raw_bleu(4), "rouge_l": _RougeL()},
        [_joined(targets, characters)],
        test_type="bs",
    )
    _, found = test()
    bleu4, rouge = ([_significance(each, of[0]) for each in of] for of in (found["BLEU"], found["ROUGE-L"]))
    return [{"bleu4": x, "rouge_l": y} for x, y in zip(bleu4, rouge)]


def confidence_interval(
    predictions: Sequence[str], targets: Sequence[str], *, characters: bool = False
) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of `bleu4` and `rouge_l`; see `paired_bootstrap`."""
    (alone,) = paired_bootstrap(predictions, [], targets, characters=characters)
    return {metric: (each.low, each.high) for metric, each in alone.items()}


def compare(
    system: Sequence[str], baseline: Sequence[str], targets: Sequence[str], *, characters: bool = False
) -> dict[str, float]:
    """Return the p-values of the differences in `bleu4` and `rouge_l`; see `paired_bootstrap`."""
    _, compared = paired_bootstrap(baseline, [system], targets, characters=characters)
    return {metric: each.p_value for metric, each in compared.items()}


def _joined(texts: Sequence[str], characters: bool) -> list[str]:
    return [" ".join(tokens(text, characters)) for text in texts]


def _significance(found: Any, baseline: Any) -> Significance:
    # sacrebleu would give the same system twice its smallest p-value
    p_value = 1.0 if found.score == baseline.score else found.p_value
    low, high = max(0.0, found.mean - found.ci), min(100.0, found.mean + found.ci)
    return Significance(float(low), float(high), p_value)


class _RougeL(Metric):
    """A metric that lets sacrebleu resample `metrics.rouge_l`; a clip has the statistics F and 1."""

    def _preprocess_segment(self, sent: str) -> str:
        return sent

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        return {"reference": refs[0]}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[float]:
        return [rouge_l(hypothesis.split(), ref_kwargs["reference"].split()), 1]

    def _compute_score_from_stats(self, stats: Any) -> Score:
        return Score("ROUGE-L", 100 * stats[0] / stats[1])

    def _aggregate_and_compute(self, stats: Any) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats)])
