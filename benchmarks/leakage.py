"""Score the questions of the real corpora: `python -m benchmarks.leakage --annotations=DIR`.

`DIR` holds the question files in `phoenix2014t_qa/`, `csl_daily_qa/` and `qsl_qa/`; absent files are left
out. No model is involved: the questions, in lower case unless a target has capitals, are scored as
translations, and for PHOENIX-2014T also after the rules of `sslssaw_jax/evaluation/german_questions.py`. The
number after ± is half of the 95 % bootstrap interval over clips, or, where few questions are asked again and
again, over questions.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import keep
from benchmarks.question_only import HALVES
from sslssaw_jax.data.text import counts_characters
from sslssaw_jax.evaluation.leakage import overlap_parts, question_baselines
from sslssaw_jax.evaluation.metrics import overlap, score
from sslssaw_jax.evaluation.significance import confidence_interval
from tfds_builders.annotation import SPLITS, AnnotationError, Question
from tfds_builders.csl_daily_qa.annotations import read_questions as read_csl
from tfds_builders.phoenix2014t_qa.annotations import read_questions as read_phoenix
from tfds_builders.qsl_qa.annotations import QUESTION_FILE
from tfds_builders.qsl_qa.annotations import read_questions as read_qsl

CORPORA: dict[str, tuple[str, str, Callable[[Path, str, list[str]], dict[str, Question]]]] = {
    "phoenix2014t_qa": ("de_DE", "{split}.txt", read_phoenix),
    "csl_daily_qa": (
        "zh_CN",
        "{split}.txt",
        lambda path, split, problems: read_csl(path, split, {}, problems),
    ),
    "qsl_qa": ("zh_CN", QUESTION_FILE, lambda path, split, problems: read_qsl(path, problems)),
}
HEADER = ["clips", "number", "overlap", "translation", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"]


def rows_of(
    clips: str, rows: Sequence[Question], language: str, *, over_questions: bool = False
) -> Iterator[list[str]]:
    """Yield a row for each way to translate some clips by questions."""
    targets, questions = [row.target for row in rows], [row.question for row in rows]
    characters = counts_characters(targets)
    shared = np.mean([overlap(q, t, characters=characters) for q, t in zip(questions, targets)])
    for name, texts in question_baselines(questions, targets, language).items():
        found = score(texts, targets, characters=characters)
        groups = questions if over_questions else None
        intervals = confidence_interval(texts, targets, characters=characters, groups=groups)
        cells = [f"{found[f'bleu{n}']:.2f}" for n in (1, 2, 3)]
        cells += [f"{found[key]:.2f} ± {(high - low) / 2:.1f}" for key, (low, high) in intervals.items()]
        yield [clips, f"{len(rows):,}", f"{100 * shared:.0f} %", name.replace("_", "-"), *cells]


def parts(corpus: str, split: str, rows: list[Question]) -> Iterator[tuple[str, list[Question]]]:
    """Yield a split with its name, then its halves and overlap parts."""
    yield split, rows
    if (corpus, split) == ("phoenix2014t_qa", "test"):
        yield from ((f"{split}, {half}", rows[lines]) for half, lines in HALVES.items())
    targets = [row.target for row in rows]
    chosen = overlap_parts(targets, [row.question for row in rows], characters=counts_characters(targets))
    for name, indices in chosen.items():
        label = name.replace("_", " ") if "_" in name else f"overlap {name}"
        if len(indices):
            yield f"{split}, {label}", [rows[i] for i in indices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--annotations", type=Path, required=True, help="folder of the corpora' question files"
    )
    parser.add_argument(
        "--corpus", choices=CORPORA, nargs="*", default=[*CORPORA], help="of these; by default all"
    )
    options = parser.parse_args()
    for corpus in options.corpus:
        language, file_name, read = CORPORA[corpus]
        table = []
        for split in SPLITS:
            path, problems = options.annotations / corpus / file_name.format(split=split), list[str]()
            if path.exists():
                rows = list(read(path, split, problems).values())
                if problems:
                    raise SystemExit(f"error: {AnnotationError(*problems)}")
                for name, some in parts(corpus, split, rows):
                    table += rows_of(name, some, language)
                if (asked := len({row.question for row in rows})) < len(rows) / 10:
                    table += rows_of(f"{split}, over {asked} questions", rows, language, over_questions=True)
            else:
                print(f"{path} is absent")
        keep("leakage", f"What the questions of {corpus} give away", HEADER, table)


if __name__ == "__main__":
    main()
