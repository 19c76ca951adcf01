"""Score models that see no frame: `python -m benchmarks.question_only --annotations=DIR`.

`DIR` holds the question files of PHOENIX-2014T-QA. Each `results/question_only*.predictions.tsv`
(`id<TAB>prediction`, the clips of test), or each that `--systems` matches, becomes rows for
benchmarks/results/question_only.md: the whole test split, its first 380 lines (paraphrases, as in dev) and
its last 262 (near-verbatim inversions), with p-values of the differences from copy-question or
`--against=NAME` (paired bootstrap). `--write NAME=WORKDIR` first makes such a file from a run's
`predictions.test.jsonl`.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import RESULTS
from sslssaw_jax.evaluation.leakage import copied_questions
from sslssaw_jax.evaluation.metrics import LABELS, score
from sslssaw_jax.evaluation.predictions import Prediction, read_predictions
from sslssaw_jax.evaluation.significance import compare
from sslssaw_jax.tables.layout import TESTED
from sslssaw_jax.workdir import predictions_file, write_text
from tfds_builders.annotation import AnnotationError, Question
from tfds_builders.phoenix2014t_qa.annotations import read_questions

SUFFIX = ".predictions.tsv"
COPIED = "copy-question"
# of PHOENIX's test file: first paraphrases of the targets, as in dev, then inversions of them
HALVES = {"first 380": slice(380), "last 262": slice(380, None)}
PARTS = {"test": slice(None)} | HALVES


def keep_predictions(name: str, predictions: Sequence[Prediction]) -> None:
    """Write a run's predictions of test to `results/NAME.predictions.tsv`."""
    text = "".join(f"{row.id}\t{row.prediction}\n" for row in predictions)
    write_text(RESULTS / f"{name}{SUFFIX}", text)


def kept_predictions(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return dict(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def rows_of(
    name: str,
    predictions: Mapping[str, str],
    baseline: Mapping[str, str],
    questions: Mapping[str, Question],
) -> list[str]:
    """Return the table's rows, one for each part of the split.

    Raises:
        SystemExit: A clip has no prediction.
    """
    if missing := questions.keys() - predictions.keys():
        raise SystemExit(f"error: {name} has no prediction for {len(missing)} clips, such as {min(missing)}")
    rows = []
    for part, lines in PARTS.items():
        clips = list(questions.values())[lines]
        own, others = ([texts[clip.name] for clip in clips] for texts in (predictions, baseline))
        targets = [clip.target for clip in clips]
        found = score(own, targets)
        cells = [f"{found[key]:.2f}" for key in LABELS]
        p_values = compare(own, others, targets) if predictions is not baseline else {}
        cells += [f"{p_values[key]:.3f}" if p_values else "" for key in TESTED]
        rows.append(f"| {name} | {part} | {' | '.join(cells)} |")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.question_only", description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True, help="the folder of test.txt")
    parser.add_argument("--against", default=COPIED, metavar="NAME", help="what the p-values compare with")
    parser.add_argument(
        "--systems", default="question_only*", metavar="PATTERN", help="which kept predictions to score"
    )
    parser.add_argument(
        "--write",
        action="append",
        default=[],
        metavar="NAME=WORKDIR",
        help="first keep a run's predictions of test",
    )
    options = parser.parse_args(arguments)
    for pair in options.write:
        name, _, workdir = pair.partition("=")
        keep_predictions(name, read_predictions(Path(workdir) / predictions_file("test")))
    problems: list[str] = []
    questions = read_questions(options.annotations / "test.txt", "test", problems)
    if problems:
        raise SystemExit(f"error: {AnnotationError(*problems)}")
    asked, targets = ([getattr(row, of) for row in questions.values()] for of in ("question", "target"))
    systems = {COPIED: dict(zip(questions, copied_questions(asked, targets)))}
    for path in sorted(RESULTS.glob(options.systems + SUFFIX)):
        systems[path.name.removesuffix(SUFFIX)] = kept_predictions(path)
    if options.against not in systems:
        parser.error(f"--against={options.against}: unknown; known: {', '.join(systems)}")
    columns = [*LABELS.values(), *(f"p, {LABELS[key]}" for key in TESTED)]
    print(f"| system | lines | {' | '.join(columns)} |")
    print("| --- | --- |" + " ---: |" * len(columns))
    for name, predictions in systems.items():
        print("\n".join(rows_of(name, predictions, systems[options.against], questions)))


if __name__ == "__main__":
    main()
