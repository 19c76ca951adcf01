"""The report of a prepared dataset: a table, `statistics.png`, and `clips.png` with random clips."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sslssaw_jax.errors import ends_in_one_line, set_up_output
from sslssaw_jax.workdir import user_path

SPLITS = ("train", "dev", "test")  # shown in the pictures; if a dataset has none of these, all its splits are


def write_dataset_report(name: str, data_dir: Path, out: Path, *, seed: int = 0) -> None:
    """Print the table of a prepared dataset and write its pictures.

    Args:
        name: The dataset.
        data_dir: The folder of all prepared datasets.
        out: The folder of the pictures.
        seed: The seed that draws the clips of the contact sheet.

    Raises:
        DatasetError: The dataset is not prepared.
    """
    # imported here, since they take seconds and --help should not wait
    from sslssaw_jax.data.clips import ClipSource
    from sslssaw_jax.data.dataset import find_dataset
    from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
    from sslssaw_jax.data.text import counts_characters
    from sslssaw_jax.report.dataset_facts import format_table, split_facts
    from sslssaw_jax.report.dataset_pictures import DPI, choose_clips, draw_contact_sheet, draw_statistics
    from sslssaw_jax.report.text_layout import fonts_for

    dataset = find_dataset(data_dir, name)
    splits = dataset.splits
    ordered = [*filter(splits.__contains__, SPLITS), *(split for split in splits if split not in SPLITS)]
    sources = {split: ClipSource(dataset, split) for split in ordered}
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language) if "train" in sources else None
    train = sources["train"].clips if "train" in sources else []
    characters = counts_characters(clip.target for source in sources.values() for clip in source.clips)
    facts = {
        split: split_facts(source.clips, train, tokenizer, characters=characters)
        for split, source in sources.items()
    }
    title, unit = f"{name} {dataset.folder.name}", "tokens" if tokenizer else "words"
    print(format_table(title, facts, unit))
    shown = {split: facts[split] for split in SPLITS if split in facts} or facts
    pictures = [out / "statistics.png"]
    out.mkdir(parents=True, exist_ok=True)
    draw_statistics(title, shown, unit).savefig(pictures[0], dpi=DPI)
    with_video = {split: sources[split] for split in shown if sources[split].num_frames.any()}
    if with_video:  # a dataset may hold only texts
        pictures.append(out / "clips.png")
        clips = choose_clips(with_video, seed)
        with fonts_for(*(text for clip in clips for text in (clip.question, clip.target))):
            draw_contact_sheet(title, clips).savefig(pictures[1], dpi=DPI)
    print(f"pictures: {', '.join(map(str, pictures))}")


@ends_in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m sslssaw_jax.report.dataset_report",
        description="Show what a prepared dataset contains: a table, and pictures of statistics and clips.",
        epilog="Example: python -m sslssaw_jax.report.dataset_report avatar_qa --data_dir=data",
    )
    parser.add_argument("name", help="the dataset, such as avatar_qa")
    parser.add_argument(
        "--data_dir", type=user_path, default=Path("data"), help="folder of prepared datasets; default data"
    )
    parser.add_argument("--out", type=user_path, help="folder of the pictures; default runs/inspect/NAME")
    parser.add_argument("--seed", type=int, default=0, help="seed that draws the clips; default 0")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / "inspect" / options.name
    write_dataset_report(options.name, options.data_dir, out, seed=options.seed)


if __name__ == "__main__":
    set_up_output()
    main()
