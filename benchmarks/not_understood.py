"""Count how many clips a demo has not understood: `python -m benchmarks.not_understood --model=runs/demo`.

The clips are those of dev, on which the threshold was found, those of test, the test clips with other looks,
and real signers if `--real_clips` names a folder with `clips.csv` (`id,video,target,split,question`).
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.harness import keep
from sslssaw_jax import Answer, Translator
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from tfds_builders.avatar import Signer, render
from tfds_builders.avatar_qa.avatar_qa_dataset_builder import NUM_CLIPS, SEED
from tfds_builders.avatar_qa.clips import FRAME_SIZE, render_row
from tfds_builders.avatar_qa.grammar import LEXICON, Row, rows

HEADER = ["clips", "number", "right", "mean score", "not understood", "right, yet not understood"]


def stranger(row: Row) -> Signer:
    """Return a signer who is in no clip of the demo."""
    return Signer.of(f"stranger {row.id}")


def other_look(row: Row) -> Signer:
    """Return a small signer in other colours, filmed by a poor camera."""
    colours = {"background": (20, 30, 25), "cloth": (230, 60, 160), "hair": (40, 200, 90)}
    return replace(stranger(row), **colours, scale=0.7, noise=12.0)


def render_as(signer: Callable[[Row], Signer]) -> Callable[[Row], np.ndarray]:
    """Return a function that renders a row with another signer."""

    def rendered(row: Row) -> np.ndarray:
        glosses, who = row.sentence.glosses, signer(row)
        return render(glosses, row.num_frames, signer=who, size=FRAME_SIZE, seed=row.seed, lexicon=LEXICON)

    return rendered


LOOKS: dict[str, Callable[[Row], np.ndarray]] = {
    "test, signers never seen": render_as(stranger),
    "test, another look": render_as(other_look),
    "test, colours inverted": lambda row: 255 - render_row(row),
    "test, black": lambda row: np.zeros_like(render_row(row)),
}


def cells(name: str, answers: Sequence[Answer], targets: Sequence[str]) -> list[str]:
    """Return a row of the table."""
    right = np.array([answer.text == target for answer, target in zip(answers, targets, strict=True)])
    understood = np.array([answer.understood for answer in answers])
    shares = [
        f"{100 * share:.0f} %" for share in (right.mean(), (~understood).mean(), (right & ~understood).mean())
    ]
    score = f"{np.mean([answer.score for answer in answers]):.2f}"
    return [name, str(len(answers)), shares[0], score, *shares[1:]]


def table(translator: Translator, data_dir: str, real_clips: Path | None) -> Iterator[list[str]]:
    """Yield the rows of the table."""
    dataset = find_dataset(data_dir, "avatar_qa")
    for split in ("dev", "test"):
        source = ClipSource(dataset, split)
        answers = translator.answer([source[index] for index in range(len(source))])
        yield cells(split, answers, [clip.target for clip in source.clips])
    test = rows(NUM_CLIPS, SEED)["test"]
    questions, targets = ([getattr(row.sentence, key) for row in test] for key in ("question", "target"))
    for name, look in LOOKS.items():
        clips = translator.read([look(row) for row in test], questions)
        yield cells(name, translator.answer(clips), targets)
    clips = translator.read([render_row(row) for row in (*test[1:], test[0])], questions)
    yield cells("test, another clip's video", translator.answer(clips), targets)
    if real_clips:
        with (real_clips / "clips.csv").open(encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        videos, asked = [real_clips / row["video"] for row in found], [row["question"] for row in found]
        answers = translator.answer(translator.read(videos, asked))
        for row, answer in zip(found, answers):
            print(f"{row['id']}: {answer.score:.2f} {answer}")
        yield cells("real signers", answers, [row["target"] for row in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a demo's workdir, or a model folder")
    parser.add_argument("--data_dir", default="data", help="folder of all prepared datasets")
    parser.add_argument("--real_clips", type=Path, help="folder of videos of real signers, with clips.csv")
    options = parser.parse_args()
    translator = Translator.from_pretrained(options.model)
    title = f"What the demo has not understood, a score below {translator.model.threshold:.3f}"
    keep("not_understood", title, HEADER, list(table(translator, options.data_dir, options.real_clips)))


if __name__ == "__main__":
    main()
