"""How far scores can be trusted: 95 % intervals, and p-values of differences, by paired bootstrap.

The resampling is sacrebleu's (`PairedTest`, 1,000 resamples of the clips; Koehn, 2004), of the scores as
`metrics.score` reports them. It is deterministic: the environment's `SACREBLEU_SEED` chooses other resamples.
It knows the clips of a test split to be a sample; that another seed trains another model it does not know.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics.base import Metric, Score
from sacrebleu.significance import PairedTest

from sslssaw_jax.data.text import tokens
from sslssaw_jax.evaluation.metrics import raw_bleu, rouge_l


class Significance(NamedTuple):
    """Of one score of one system."""

    low: float  # the 95 % interval: the resamples' mean, and half the width of their middle 95 % to each side
    high: float
    p_value: float  # of the difference from the baseline's score, two-sided; 1 where there is none


def paired_bootstrap(
    baseline: Sequence[str],
    systems: Sequence[Sequence[str]],
    targets: Sequence[str],
    *,
    characters: bool = False,
) -> list[dict[str, Significance]]:
    """`bleu4` and `rouge_l` of the baseline, and of each system as compared with it.

    Args:
        baseline: its translations, one a clip.
        systems: the translations of others, of the same clips in the same order.
        targets: one reference a clip.
        characters: count characters instead of words, as `metrics.score` does.

    Returns:
        One dictionary for the baseline, whose p-values are 1, then one for each system.

    Raises:
        ValueError: there is no clip, or not one translation for each.
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
    """95 % intervals of `bleu4` and `rouge_l`; as `paired_bootstrap` without anything to compare with."""
    (alone,) = paired_bootstrap(predictions, [], targets, characters=characters)
    return {metric: (each.low, each.high) for metric, each in alone.items()}


def compare(
    system: Sequence[str], baseline: Sequence[str], targets: Sequence[str], *, characters: bool = False
) -> dict[str, float]:
    """p-values of the differences in `bleu4` and `rouge_l`; as `paired_bootstrap` of one system."""
    _, compared = paired_bootstrap(baseline, [system], targets, characters=characters)
    return {metric: each.p_value for metric, each in compared.items()}


def _joined(texts: Sequence[str], characters: bool) -> list[str]:
    return [" ".join(tokens(text, characters)) for text in texts]


def _significance(found: Any, baseline: Any) -> Significance:
    # of two equal scores sacrebleu counts the resamples that differ by more than usual: none or some, as the
    # systems are the same or not, so that the same system twice would get the smallest p-value
    p_value = 1.0 if found.score == baseline.score else found.p_value
    low, high = max(0.0, found.mean - found.ci), min(100.0, found.mean + found.ci)
    return Significance(float(low), float(high), p_value)


class _RougeL(Metric):
    """`metrics.rouge_l` for sacrebleu's resampling: a clip's statistics are its F and its number, 1."""

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
