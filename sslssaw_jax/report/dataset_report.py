"""Show what a prepared dataset holds.

    python -m sslssaw_jax.report.dataset_report NAME --data_dir=DIR --out=DIR

Prints a table, and writes `statistics.png` and `clips.png`, a contact sheet of random clips.
"""

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.frames import decode_frame, select_frames
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.data.text import counts_characters
from sslssaw_jax.errors import UserError
from sslssaw_jax.report.dataset_facts import SplitFacts, split_facts
from sslssaw_jax.report.dataset_pictures import ShownClip, save_contact_sheet, save_statistics

SPLITS = ("train", "dev", "test")  # they alone are in the pictures, where there is one of them
CLIPS_SHOWN, FRAMES_SHOWN = 12, 6


def inspect(name: str, data_dir: Path, out: Path, *, seed: int = 0) -> None:
    """Prints the table of a prepared dataset and writes its pictures into `out`.

    Args:
      name: of the dataset.
      data_dir: the folder of all prepared datasets.
      out: the folder of the pictures.
      seed: draws the clips of the contact sheet.

    Raises:
      DatasetError: the dataset is not prepared.
    """
    dataset = find_dataset(data_dir, name)
    splits = dataset.splits
    ordered = [*filter(splits.__contains__, SPLITS), *filter(lambda split: split not in SPLITS, splits)]
    sources = {split: ClipSource(dataset, split) for split in ordered}
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language) if "train" in sources else None
    train = sources["train"].clips if "train" in sources else []
    facts = {
        split: split_facts(source.clips, train, tokenizer, characters=counts_characters(dataset.language))
        for split, source in sources.items()
    }
    title, unit = f"{name} {dataset.folder.name}", "tokens" if tokenizer else "words"
    print(format_table(title, facts, unit))
    shown = {split: facts[split] for split in SPLITS if split in facts} or facts
    pictures = [out / "statistics.png"]
    save_statistics(pictures[0], title, shown, unit)
    filmed = {split: sources[split] for split in shown if sources[split].num_frames.any()}
    if filmed:  # a dataset may hold texts alone
        pictures.append(out / "clips.png")
        save_contact_sheet(pictures[1], title, draw_clips(filmed, seed))
    print(f"pictures: {', '.join(map(str, pictures))}")


def format_table(title: str, facts: Mapping[str, SplitFacts], unit: str) -> str:
    """A plain-text table with a column for each split."""
    rows: dict[str, Callable[[SplitFacts], str]] = {
        "clips": lambda split: f"{len(split.clips):,}",
        "  without a question": lambda split: f"{sum(not clip.question for clip in split.clips):,}",
        "signers": lambda split: f"{len({clip.signer for clip in split.clips} - {''}):,}",
        "frames": lambda split: f"{split.num_frames.sum():,}",
        "least / median / most": lambda split: "",
        "  frames a clip": lambda split: _spread(split.num_frames),
        f"  question {unit}": lambda split: _spread(split.lengths["question"]),
        f"  target {unit}": lambda split: _spread(split.lengths["target"]),
        "distinct words": lambda split: "",
        "  of questions": lambda split: f"{split.distinct['question']:,}",
        "  of targets": lambda split: f"{split.distinct['target']:,}",
        "percent": lambda split: "",
    }
    for share in max((list(split.shares) for split in facts.values()), key=len):
        rows[f"  {share}"] = functools.partial(_share_cell, share)
    rows |= {
        "  target words in the question": lambda split: f"{split.overlap.mean():.1f}",
        "copy-question": lambda split: "",
        "  BLEU-4": lambda split: f"{split.copy_question['bleu4']:.1f}",
        "  ROUGE-L": lambda split: f"{split.copy_question['rouge_l']:.1f}",
    }
    table = [[title, *facts], *([label, *map(cell, facts.values())] for label, cell in rows.items())]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
        "   ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        )
        for row in table
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def draw_clips(sources: Mapping[str, ClipSource], seed: int) -> list[ShownClip]:
    """Random clips, as many of each split, in the splits' order."""
    rng = np.random.default_rng(seed)
    shown = []
    for split, source in sources.items():
        count = min(max(1, CLIPS_SHOWN // len(sources)), len(source))
        for index in sorted(rng.choice(len(source), count, replace=False).tolist()):
            clip = source[index]
            numbers = select_frames(clip.num_frames, FRAMES_SHOWN, rng=None).tolist()
            frames = [decode_frame(clip.id, clip.video, number) for number in numbers]
            signer = f", {clip.signer}" if clip.signer else ""
            heading = f"{split}: {clip.id} ({clip.num_frames} frames{signer})"
            shown.append(ShownClip(heading, frames, clip.question, clip.target))
    return shown


def _share_cell(share: str, split: SplitFacts) -> str:
    return f"{split.shares[share]:.1f}" if share in split.shares else ""


def _spread(values: np.ndarray) -> str:
    return f"{values.min()} / {np.median(values):.0f} / {values.max()}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sslssaw_jax.report.dataset_report", description="Shows what a prepared dataset holds."
    )
    parser.add_argument("name", help="of the dataset")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="default: data")
    parser.add_argument("--out", type=Path, help="of the pictures; default: runs/inspect/NAME")
    parser.add_argument("--seed", type=int, default=0, help="draws the clips that are shown")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / "inspect" / options.name
    try:
        inspect(options.name, options.data_dir, out, seed=options.seed)
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
