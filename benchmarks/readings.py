"""Score runs on the demo by what the signs may mean: `python -m benchmarks.readings RUN RUN ...`.

On the demo, one sequence of signs has up to six targets, and only the question says which. A system without
the question can only guess, and its BLEU-4 is mostly luck. Here a translation is scored against all targets
of its clip's signs together, as BLEU does with several references, on the test split. The 95 % interval, and
p for the difference from the first run, come from a paired bootstrap.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import keep
from sslssaw_jax.evaluation.metrics import raw_bleu
from sslssaw_jax.evaluation.predictions import read_predictions
from sslssaw_jax.evaluation.significance import draw, resampled_bleu
from sslssaw_jax.workdir import predictions_file
from tfds_builders.avatar_qa.avatar_qa_dataset_builder import NUM_CLIPS, SEED
from tfds_builders.avatar_qa.grammar import readings, rows

HEADER = ["run", "BLEU-4", "BLEU-4, any reading", "95 %", "p", "a reading, word for word"]


class Scored(NamedTuple):
    """A run by all readings of its clips."""

    bleu4: float  # against the one target
    any_reading: float
    low: float
    high: float
    p_value: float  # 1 for the first run
    right: float  # share of the clips


def score_readings(
    runs: Sequence[Sequence[str]], targets: Sequence[str], meant: Sequence[set[str]]
) -> list[Scored]:
    """Score the translations of each run.

    Args:
        runs: The translations of each run, one per clip.
        targets: The target of each clip.
        meant: All targets that each clip's signs may have.
    """
    bleu, most = raw_bleu(4), max(map(len, meant))
    ordered = [sorted(texts) for texts in meant]
    references = [[texts[place % len(texts)] for texts in ordered] for place in range(most)]
    drawn = draw(len(targets))
    found = [resampled_bleu(texts, references, drawn) for texts in runs]
    return [
        Scored(
            bleu.corpus_score(texts, [targets]).score,
            result.score,
            *result.against(found[0]),
            sum(text in clip for text, clip in zip(texts, meant, strict=True)) / len(meant),
        )
        for texts, result in zip(runs, found, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="workdirs of runs on the demo")
    options = parser.parse_args()
    signed = {row.id: row.sentence.glosses for row in rows(NUM_CLIPS, SEED)["test"]}
    found = [read_predictions(run / predictions_file("test")) for run in options.runs]
    targets, meant = zip(*((clip.target, readings(signed[clip.id])) for clip in found[0]))
    scored = score_readings([[clip.prediction for clip in run] for run in found], targets, meant)
    table = [
        [
            run.name,
            f"{one.bleu4:.2f}",
            f"{one.any_reading:.2f}",
            f"{one.low:.2f} to {one.high:.2f}",
            f"{one.p_value:.3f}" if one is not scored[0] else "",
            f"{one.right:.0%}",
        ]
        for run, one in zip(options.runs, scored, strict=True)
    ]
    keep("readings", "BLEU-4 against every reading of the signs", HEADER, table)


if __name__ == "__main__":
    main()
