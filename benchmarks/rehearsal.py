"""Where a row of the rehearsal gains over the question alone: `python -m benchmarks.rehearsal --tables=DIR`.

`DIR` is the workdir of the tables command, with `seed<n>/<row>/predictions.{dev,test}.jsonl`; a row that was
evaluated with another decoding, too, is read from `seed<n>/<row>/decode.KEY=VALUE/` as well. It prints as
Markdown: BLEU-4 of each row on dev and test, on both halves of test and by overlap bucket, and the length of
its translations relative to the references; the gain over the row `question`, what SSL, SSAW and other
fusions add, and what changes of the full system gain, as a mean over the seeds that both rows have, with 95 %
intervals by a bootstrap over clips, for each such seed, and *unpenalised*, in BLEU-4 without its brevity
penalty; and BLEU-4 on dev while the rows train. `--figure=FILE` draws the gains, `--write` keeps the
rows' predictions.
"""

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import RESULTS
from benchmarks.question_only import PARTS, keep_predictions
from sslssaw_jax.data.text import tokens
from sslssaw_jax.evaluation.leakage import BUCKETS, copied_questions, overlap_parts
from sslssaw_jax.evaluation.metrics import raw_bleu
from sslssaw_jax.evaluation.predictions import Prediction, read_predictions
from sslssaw_jax.evaluation.significance import RESAMPLES
from sslssaw_jax.workdir import (
    CHECKPOINTS,
    FINISHED,
    METRICS,
    picture_path,
    predictions_file,
    read_json,
    read_scores,
    user_path,
)

QUESTION = "rehearsal_question"  # the model without video
QUALITIES = {
    "rehearsal": "good seeing (a CNN of eight epochs)",
    "rehearsal_poor": "poor seeing (the same CNN after one epoch)",
}
SHOWN = {
    "qb": "question + video (QB)",
    "qb_ssl": "+ SSL",
    "qb_ssaw": "+ SSAW",
    "ssl_ssaw": "+ both (SSL-SSAW)",
}
EFFECTS = {
    "video": ("ssl_ssaw", "question"),  # the question alone has SSL and the gate, too
    "video, without SSL": ("qb_ssaw", "question_no_ssl"),
    "SSL, question alone": ("question", "question_no_ssl"),
    "SSL, with concatenation": ("qb_ssl", "qb"),
    "SSL, with SSAW": ("ssl_ssaw", "qb_ssaw"),
    "SSAW, without SSL": ("qb_ssaw", "qb"),
    "SSAW, with SSL": ("ssl_ssaw", "qb_ssl"),
    "both": ("ssl_ssaw", "qb"),
    "an LSTM in place of SSAW": ("lstm", "ssl_ssaw"),
    "a TCN in place of SSAW": ("tcn", "ssl_ssaw"),
}
"""What is added, or put in place of another part -> the row with it and the row without it."""
LONGER = "decode.length_penalty=1.2"  # by `--mode=eval`; SSAW then writes as much as the LSTM
VARIANTS = {
    "no LayerNorm before the gate": ("no_gate_norm", "ssl_ssaw"),
    "the gate times two": ("full_gate", "ssl_ssaw"),
    "the question's loss times 0.2": ("light_ssl", "ssl_ssaw"),
    "the fusion's learning rate times five": ("fast_fusion", "ssl_ssaw"),
    "the video alone": ("video", "ssl_ssaw"),
    "SSAW's layer without its gate": ("transformer", "ssl_ssaw"),
    "longer sentences by SSAW": (f"ssl_ssaw/{LONGER}", "ssl_ssaw"),
    "an LSTM, if SSAW writes as much": ("lstm", f"ssl_ssaw/{LONGER}"),
    "positions before SSAW": ("positions", "ssl_ssaw"),
    "a convolution before SSAW": ("convolution", "ssl_ssaw"),
    "an LSTM in place of both": ("lstm", "convolution"),
    "positions before concatenation": ("concat_positions", "qb_ssl"),
}
"""What is changed -> the row with the change and the one without, in most cases the full system."""
COLORS = ("#7f8a96", "#2f6fa8", "#c77f16", "#b5304b")
OVERLAP_FREE = "overlap_free"


@dataclass(frozen=True)
class Run:
    """The translations of a split by one seed of a row."""

    predictions: Sequence[Prediction]

    @cached_property
    def counts(self) -> np.ndarray:
        """Return the n-gram counts of each clip that BLEU-4 sums, i[clips, 10]."""
        texts = [
            [" ".join(tokens(text, False)) for text in (row.prediction, row.target)]
            for row in self.predictions
        ]
        hypotheses, references = map(list, zip(*texts))
        return np.array(raw_bleu(4)._extract_corpus_statistics(hypotheses, [references]))


Seeds = Mapping[str, Run]
"""The finished runs of a row by seed."""


@dataclass(frozen=True)
class Gain:
    """A row's gain in BLEU-4 on some clips.

    Attributes:
        by_seed: The gain for each seed that both rows have.
        low: The lower end of the 95 % interval of their mean.
        high: The upper end.
    """

    by_seed: Sequence[float]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return float(np.mean(self.by_seed))


Gains = Mapping[str, Gain]
"""Gains by the part of the data."""


Measure = Callable[[np.ndarray], np.ndarray]
"""From the counts of sets of clips, i[R, 10], to the scores of the sets, f[R]."""


def unpenalised(sums_Rx10: np.ndarray) -> np.ndarray:
    """Return BLEU-4 without smoothing and without the brevity penalty, f[R]."""
    right, total = sums_Rx10[:, 2:6], sums_Rx10[:, 6:10]
    with np.errstate(divide="ignore"):
        return 100 * np.exp(np.where(right > 0, np.log(right / np.maximum(total, 1)), -np.inf).mean(axis=1))


def bleu4(sums_Rx10: np.ndarray) -> np.ndarray:
    """Return BLEU-4 without smoothing, f[R]."""
    lengths, references = sums_Rx10[:, 0], sums_Rx10[:, 1]
    return unpenalised(sums_Rx10) * np.exp(np.minimum(0, 1 - references / np.maximum(lengths, 1)))


def relative_length(sums_Rx10: np.ndarray) -> np.ndarray:
    """Return the translations' tokens per token of the references, f[R]."""
    return sums_Rx10[:, 0] / sums_Rx10[:, 1]


def gain(row: Seeds, other: Seeds, clips: Sequence[int], measure: Measure = bleu4) -> Gain | None:
    """Return the gain on clips, if any seed has both rows."""
    seeds = [seed for seed in row if seed in other]
    if not seeds:
        return None
    drawn = np.random.default_rng(0).multinomial(len(clips), np.full(len(clips), 1 / len(clips)), RESAMPLES)
    weight_RxC = np.concatenate([np.ones((1, len(clips)), int), drawn])
    gain_SxR = np.array(
        [
            measure(weight_RxC @ row[seed].counts[clips]) - measure(weight_RxC @ other[seed].counts[clips])
            for seed in seeds
        ]
    )
    low, high = np.quantile(gain_SxR[:, 1:].mean(axis=0), (0.025, 0.975))
    return Gain(gain_SxR[:, 0].tolist(), float(low), float(high))


def row_names(tables: Path) -> list[str]:
    """Return the rows with a finished seed, also `ROW/decode.KEY=VALUE`, if evaluated so."""
    scored = [
        *tables.glob(f"seed*/rehearsal*/{METRICS}"),
        *tables.glob(f"seed*/rehearsal*/decode.*/{METRICS}"),
    ]
    names = {str(Path(*path.relative_to(tables).parts[1:-1])) for path in scored}
    return sorted(name for name in names if finished_runs(tables, name))


def finished_runs(tables: Path, name: str) -> dict[str, Path]:
    """Return the folder of each finished seed of a row, in order."""
    row = name.partition("/")[0]
    seeds = sorted(mark.parents[1] for mark in tables.glob(f"seed*/{row}/{FINISHED}"))
    return {seed.name: seed / name for seed in seeds if (seed / name / METRICS).exists()}


def read_runs(tables: Path, name: str, split: str) -> Seeds:
    """Return a row's finished seeds, in order."""
    return {
        seed: Run(read_predictions(run / predictions_file(split)))
        for seed, run in finished_runs(tables, name).items()
    }


def first(runs: Seeds) -> Run:
    """Return a row's first seed."""
    return next(iter(runs.values()))


def parts_of(run: Run) -> dict[str, list[int]]:
    """Return the clips of each part of test, in the order shown."""
    targets, questions = ([getattr(row, of) for row in run.predictions] for of in ("target", "question"))
    by_overlap = overlap_parts(targets, questions)
    every = range(len(targets))
    halves = {part: list(every[lines]) for part, lines in PARTS.items()}
    return halves | {name: by_overlap[name] for name in (*BUCKETS, OVERLAP_FREE)}


def copied(run: Run) -> Run:
    """Return the questions as translations."""
    questions, targets = ([getattr(row, of) for row in run.predictions] for of in ("question", "target"))
    rows = [
        Prediction(row.id, row.question, row.target, text, 0.0)
        for row, text in zip(run.predictions, copied_questions(questions, targets))
    ]
    return Run(rows)


def table(rows: Mapping[str, Mapping[str, Seeds]]) -> str:
    """Return BLEU-4 of each row by split and part, as Markdown."""
    parts = parts_of(first(rows["test"][QUESTION]))
    every = range(len(first(rows["dev"][QUESTION]).predictions))
    lines = [
        f"| row | seeds | dev | {' | '.join(parts)} | length on dev | on test |",
        f"| --- | ---: | ---: |{' ---: |' * len(parts)} ---: | ---: |",
        f"| clips | | {len(every)} | {' | '.join(str(len(clips)) for clips in parts.values())} | | |",
    ]
    for name, runs in rows["test"].items():
        dev = rows["dev"][name]
        cells = [_spread(dev, every)] + [_spread(runs, clips) for clips in parts.values()]
        cells += [_spread(dev, every, relative_length), _spread(runs, parts["test"], relative_length)]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(runs: Seeds, clips: Sequence[int], measure: Measure = bleu4) -> str:
    scores = [float(measure(run.counts[clips].sum(axis=0, keepdims=True))[0]) for run in runs.values()]
    deviation = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.2f}{deviation}"


def gains(
    rows: Mapping[str, Mapping[str, Seeds]], name: str, other: str, measure: Measure = bleu4
) -> dict[str, Gain]:
    """Return what a row gains over another by part, if comparable."""
    dev, test = ([rows[split].get(row, {}) for row in (name, other)] for split in ("dev", "test"))
    parts = parts_of(first(rows["test"][QUESTION]))
    every = range(len(first(rows["dev"][QUESTION]).predictions))
    found = {"dev": gain(*dev, every, measure)}
    found |= {part: gain(*test, clips, measure) for part, clips in parts.items()}
    return {part: one for part, one in found.items() if one is not None}


def effects(
    rows: Mapping[str, Mapping[str, Seeds]],
    base: str,
    pairs: Mapping[str, tuple[str, str]],
    measure: Measure = bleu4,
) -> dict[str, Gains]:
    """Return what each change gains, of those whose rows are finished."""
    found = {}
    for label, pair in pairs.items():
        # a row without video is the same for both qualities of seeing
        name, other = (f"{'rehearsal' if 'question' in row else base}_{row}" for row in pair)
        if name.startswith(f"{base}_") and (by_part := gains(rows, name, other, measure)):
            found[label] = by_part
    return found


def gains_table(found: Mapping[str, Gains]) -> str:
    """Return gains as Markdown."""
    parts = list(next(iter(found.values())))
    lines = [f"| gain of | {' | '.join(parts)} |", f"| --- |{' ---: |' * len(parts)}"]
    for name, by_part in found.items():
        lines.append(f"| {name} | {' | '.join(map(_interval, by_part.values()))} |")
    return "\n".join(lines)


def _interval(one: Gain) -> str:
    return f"{one.mean:+.2f} ({one.low:+.1f} to {one.high:+.1f})"


def seeds_table(found: Mapping[str, Gains], without: Mapping[str, Gains]) -> str:
    """Return the gains of each seed, and those unpenalised, as Markdown."""
    lines = ["| gain of | dev, by seed | test, by seed | unpenalised on dev | on test |"]
    lines += ["| --- |" + 4 * " ---: |"]
    for name, by_part in found.items():
        cells = [", ".join(f"{one:+.1f}" for one in by_part[part].by_seed) for part in ("dev", "test")]
        cells += [_interval(without[name][part]) for part in ("dev", "test")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curves_table(tables: Path, names: Sequence[str]) -> str:
    """Return dev BLEU-4 while rows train, as means over seeds, as Markdown."""
    curves: dict[str, dict[int, list[float]]] = {}
    for name in names:
        for run in finished_runs(tables, name).values():
            if scores := read_scores(run / CHECKPOINTS):
                every = read_json(run / FINISHED)["config"]["translate"]["eval_every"]
                for place, step in enumerate(sorted(scores), start=1):
                    curves.setdefault(name, {}).setdefault(place * every, []).append(scores[step]["bleu4"])
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    lines = [f"| dev after epochs | {' | '.join(map(str, epochs))} |", f"| --- |{' ---: |' * len(epochs)}"]
    for name, curve in curves.items():
        cells = [f"{np.mean(curve[epoch]):.2f}" if epoch in curve else "" for epoch in epochs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: Mapping[str, Gains], numbers: Mapping[str, int]) -> Figure:
    """Draw rows' gains by overlap bucket, a panel for each quality.

    Args:
        found: The gains of each row over the question alone.
        numbers: The number of clips in each part.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    bases = [base for base in QUALITIES if any(f"{base}_{row}" in found for row in SHOWN)]
    panels = figure.subplots(1, len(bases), sharey=True, squeeze=False)[0]
    for axes, base in zip(panels, bases):
        for place, (row, color) in enumerate(zip(SHOWN, COLORS)):
            if f"{base}_{row}" not in found:
                continue
            by_bucket = [found[f"{base}_{row}"][bucket] for bucket in BUCKETS]
            x = np.arange(len(BUCKETS)) + 0.19 * (place - 1.5)
            axes.bar(x, [one.mean for one in by_bucket], 0.17, color=color, label=SHOWN[row])
            axes.vlines(
                x,
                [one.low for one in by_bucket],
                [one.high for one in by_bucket],
                color="#333333",
                linewidth=1,
            )
            for middle, one in zip(x, by_bucket):
                if len(one.by_seed) > 1:
                    axes.plot([middle] * len(one.by_seed), one.by_seed, ".", color="#333333", markersize=4)
        axes.axhline(0, color="#333333", linewidth=0.8)
        labels = [f"{bucket.replace('-', ' to ')}\n{numbers[bucket]} clips" for bucket in BUCKETS]
        axes.set_xticks(range(len(BUCKETS)), labels)
        axes.set_title(QUALITIES[base], loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    panels[0].set_ylabel('BLEU-4 gained over the row "question",\nwhich has SSL and SSAW')
    panels[0].legend(loc="lower left", frameon=False, fontsize=9)
    figure.suptitle("BLEU-4 gained over the question alone, by how much of the sentence the question holds")
    figure.supxlabel(
        "share of the sentence's words that the question holds (test; "
        "bars: mean over seeds, points: each seed if there are several, lines: 95 % over clips)",
        fontsize=9,
    )
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearsal", description=__doc__)
    parser.add_argument("--tables", type=user_path, required=True, help="workdir of the tables command")
    parser.add_argument("--figure", type=picture_path, help="the picture to draw")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"keep the predictions of the decisive rows in {RESULTS.name}/, a file for each seed",
    )
    options = parser.parse_args(arguments)
    names = row_names(options.tables)
    if QUESTION not in names:
        parser.error(f"{options.tables} has no finished {QUESTION}, with which all rows are compared")
    rows = {
        split: {name: read_runs(options.tables, name, split) for name in names} for split in ("dev", "test")
    }
    with_copy = {
        split: {"copy-question": {"": copied(first(runs[QUESTION]))}, **runs} for split, runs in rows.items()
    }
    print(table(with_copy))
    found = {name: by_part for name in names if name != QUESTION and (by_part := gains(rows, name, QUESTION))}
    print(f"\n{gains_table(found)}")
    for base, pairs in itertools.product(QUALITIES, (EFFECTS, VARIANTS)):
        if added := effects(rows, base, pairs):
            by_seed = seeds_table(added, effects(rows, base, pairs, unpenalised))
            print(f"\n{QUALITIES[base]}:\n\n{gains_table(added)}\n\n{by_seed}")
    print(f"\n{curves_table(options.tables, names)}")
    if options.figure and {f"{base}_{row}" for base in QUALITIES for row in SHOWN} & found.keys():
        numbers = {part: len(clips) for part, clips in parts_of(first(rows["test"][QUESTION])).items()}
        draw(found, numbers).savefig(options.figure, dpi=150)
    if options.write:
        decisive = {f"{base}_{row}" for base in QUALITIES for pair in EFFECTS.values() for row in pair}
        for name in decisive & {*names}:
            for seed, run in rows["test"][name].items():
                keep_predictions(name if seed == "seed0" else f"{name}_{seed}", run.predictions)


if __name__ == "__main__":
    main()
