"""The scores in `metrics.json` as rows, and the text of these rows, which ends a run."""

from collections.abc import Mapping
from textwrap import fill
from typing import Any, NamedTuple

from tabulate import tabulate

from sslssaw_jax.evaluation.metrics import LABELS
from sslssaw_jax.evaluation.understanding import UNDERSTANDING
from sslssaw_jax.evaluation.wer import GLOSS_SCORES

COLUMNS = LABELS | {"chrf": "chrF"}
BASELINE_LABELS = {
    "copy_question": (
        "question copied",
        "the question taken as the translation, in lower case if the targets are",
    ),
    "edited_question": ("question edited", "the question rewritten by fixed rules, without learning"),
    "question_only": ("question only", "a model trained without any video"),
    "shuffled": ("questions shuffled", "this run, each clip with the question of another"),
    "blanked": ("questions blanked", "this run without any question"),
}
"""Key of each baseline and each swap of questions -> its name and what it is."""

_FIRST = ("bleu4", "rouge_l", "p", "num_clips")
_TERMINAL_COLUMNS = {key: COLUMNS.get(key, key.removeprefix("num_")) for key in (*_FIRST, *COLUMNS)}
_WIDTH = 80  # of the notes
_GLOSS_COLUMNS = {
    "wer": "WER",
    "wer_as_written": "as written",  # without the clean-up of PHOENIX
    "substitutions": "substituted",
    "deletions": "left out",
    "insertions": "added",
    "num_glosses": "glosses",
    "num_clips": "clips",
}
_FORMATS = {"num_glosses": "d", "num_clips": "d", "p": ".3f"}
_NOTES = """\
± 95 %: half the bootstrap interval over the clips
p: of this run's difference in BLEU-4, paired bootstrap
overlap: share of the target's distinct tokens that the question holds
with final period: " ." after translations and targets, as in the references of some earlier work
without copies: the clips whose question is not the target itself
overlap free: the clips whose question holds no two tokens of the target in a row
shuffled, blanked: this run, where each clip is asked another clip's question, or none
sacreBLEU with its signature: in metrics.json"""


class ScoreRow(NamedTuple):
    """A row of scores: for a run, a part of its clips, or something that the run is compared with."""

    kind: str  # run | part | questions | baseline
    key: str
    scores: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Return the name of the row for readers."""
        return BASELINE_LABELS[self.key][0] if self.key in BASELINE_LABELS else self.key.replace("_", " ")

    @property
    def meaning(self) -> str:
        """Explain the row in words, if its label does not."""
        return BASELINE_LABELS[self.key][1] if self.key in BASELINE_LABELS else ""

    def text(self, column: str) -> str:
        """Return the figure of a column; "" if it is unknown."""
        value = self.scores.get("p_value", {}).get("bleu4") if column == "p" else self.scores.get(column)
        return "" if value is None else format(value, _FORMATS.get(column, ".2f"))

    def interval(self, column: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a score, if any."""
        return self.scores.get("intervals", {}).get(column)


def score_rows(scores: Mapping[str, Any]) -> list[ScoreRow]:
    """Return the rows of a split, the run first, without empty parts.

    Args:
        scores: What `leakage.evaluate` returns, and `questions` if they were swapped.
    """
    parts = {f"overlap {name}": part for name, part in scores.get("overlap_buckets", {}).items()}
    named = ("with_final_period", "without_copies", "overlap_free")
    parts |= {key: scores[key] for key in named if key in scores}
    groups = {
        "run": {"this run": scores},
        "part": parts,
        "questions": scores.get("questions", {}),
        "baseline": scores.get("baselines", {}),
    }
    rows = [ScoreRow(kind, key, found) for kind, group in groups.items() for key, found in group.items()]
    return [row for row in rows if row.scores.get("num_clips") != 0]


def understanding_notes(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence about the threshold of each split that has one."""
    return [
        f"not understood: scores below {found['threshold']:.2f} ({found['rule']}); so low are "
        f"{found['rejected']:.0%} of the sentences of {split}, and {found['rejected_without_video']:.0%} if "
        "its frames are black"
        for split, scores in metrics.items()
        if (found := scores.get(UNDERSTANDING))
    ]


def gloss_notes(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence about the recognised glosses of each split."""
    return [
        f"glosses of {split}: word error rate {row.text('wer')} %, of {row.text('num_glosses')} glosses "
        f"{row.text('substitutions')} % substituted, {row.text('deletions')} % left out, "
        f"{row.text('insertions')} % added"
        for split, scores in metrics.items()
        if GLOSS_SCORES in scores
        for row in [ScoreRow("glosses", split, scores[GLOSS_SCORES])]
    ]


def format_gloss_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text table of recognised glosses; "" without any."""
    rows = {
        split: ScoreRow("glosses", split, scores[GLOSS_SCORES])
        for split, scores in reversed([*metrics.items()])
        if GLOSS_SCORES in scores
    }
    shown = [key for key in _GLOSS_COLUMNS if any(row.text(key) for row in rows.values())]
    table = [[split, *map(row.text, shown)] for split, row in rows.items()]
    headers = ["split", *(_GLOSS_COLUMNS[key] for key in shown)]
    return f"{tabulate(table, headers=headers, disable_numparse=True)}\n" if rows else ""


def format_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text table of a `metrics.json`, `{split: scores}`, for 80 columns."""
    # as a row: tabulate makes columns wider than their headings by two letters
    table = [["system", *_TERMINAL_COLUMNS.values()]]
    for split, scores in reversed([*metrics.items()]):  # test first, as in the report
        for row in score_rows(scores):
            name = f" {row.label}" if row.kind == "part" else row.label
            cells = map(row.text, _TERMINAL_COLUMNS)
            table.append([f"this run on {split}" if row.kind == "run" else name, *cells])
            if row.kind != "baseline" and "intervals" in row.scores:
                halves = {key: (high - low) / 2 for key, (low, high) in row.scores["intervals"].items()}
                cells = map(ScoreRow("interval", "", halves).text, _TERMINAL_COLUMNS)
                table.append(["  ± 95 %", *cells])
        table.append([])
    text = tabulate(
        table,
        tablefmt="plain",
        disable_numparse=True,
        preserve_whitespace=True,
        colalign=("left", *["right"] * len(_TERMINAL_COLUMNS)),
    )
    notes = [*_NOTES.splitlines(), *understanding_notes(metrics)]
    return "\n".join([text, *(fill(note, _WIDTH) for note in notes)])
