"""The scores of a run as text: what a user sees at its end."""

from collections.abc import Mapping
from typing import Any

from sslssaw_jax.evaluation.metrics import LABELS

_COLUMNS = LABELS | {"chrf": "chrF", "sacrebleu": "sacreBLEU", "num_clips": "clips"}
_NOTES = """\
± 95 %: half the bootstrap interval over the clips; p: of this run's difference in BLEU-4, paired bootstrap
overlap: share of the target's distinct tokens that the question holds
without copies: the clips whose question is not the target itself
overlap-free: the clips whose question holds no two tokens of the target in a row
shuffled, blanked: this run, where each clip is asked another clip's question, or none"""


def format_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A plain-text table of `metrics.json`: `{split: leakage.evaluate(...)}`, with `questions` where swapped.

    What the file of an older version lacks is left out.
    """
    rows = [["split", "system", *_COLUMNS.values(), "p"]]
    for split, scores in metrics.items():
        rows.append([split, "this run", *_cells(scores)])
        rows += _half_widths(scores)
        for name, bucket in scores["overlap_buckets"].items():
            rows.append(["", f"  overlap {name}", *_cells(bucket)])
        rows.append(["", "  without copies", *_cells(scores["without_copies"])])
        if "overlap_free" in scores:
            rows.append(["", "  overlap-free", *_cells(scores["overlap_free"])])
            rows += _half_widths(scores["overlap_free"])
        for name, swapped in scores.get("questions", {}).items():
            rows.append(["", f"  questions {name}", *_cells(swapped)])
        for name, baseline in scores["baselines"].items():
            rows.append(["", name.replace("_", "-"), *_cells(baseline)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join([*lines, _NOTES])


def _half_widths(scores: Mapping[str, Any]) -> list[list[str]]:
    """A row for the intervals, where there are any."""
    halves = {key: (high - low) / 2 for key, (low, high) in scores.get("intervals", {}).items()}
    return [["", "    ± 95 %", *_cells(halves)]] if halves else []


def _cells(scores: Mapping[str, Any]) -> list[str]:
    values = [scores.get(key) for key in _COLUMNS]
    p_value = scores.get("p_value")
    return [
        *("" if x is None else str(x) if isinstance(x, int) else f"{x:.2f}" for x in values),
        f"{p_value['bleu4']:.3f}" if p_value else "",
    ]
