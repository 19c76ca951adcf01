"""Compare loading with the parent project's loader: `python -m benchmarks.loader`.

Their loader reads each frame with OpenCV, converts it to a PIL image, resizes it, makes a normalised float32
tensor, crops it and repeats the clip's edges. Ours makes packed `uint8` batches and leaves resizing, crop and
normalisation to the device. Augmentation is off on both sides. Each side runs in its own process on one core,
with one thread, alternately; the table has the minimum processor time over rounds. The files are in the page
cache.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.harness import compare, keep, serve

CLIPS, FRAMES = 8, 116  # PHOENIX-2014T's mean
PREPARED, RELEASED = (256, 256), (260, 210)  # height, width
DATASET, BUDGET = "loader_qa", CLIPS * FRAMES


@dataclass(frozen=True)
class Case:
    """A row of the table: ours, from JPEG or from the cache, and their files."""

    title: str
    cache: bool
    theirs: str
    goal: str
    epochs: int = 1  # of ours in a round, since short rounds are hard to measure


CASES = {
    "jpeg": Case("our JPEG 256x256, their PNG 210x260 as released", False, "png", "8"),
    "cache": Case("our cache, their PNG 210x260", True, "png", "50", epochs=32),
    "same_files": Case("JPEG 256x256 on both sides", False, "jpg", ""),
}


def prepare(
    folder: Path,
    frames: int = FRAMES,
    texts: Sequence[tuple[str, str]] = (("what comes tomorrow", "rain in the north"),) * CLIPS,
    vocab_size: int = 24,
) -> None:
    """Write a dataset of equally long rendered clips, one for each text."""
    import tensorflow_datasets as tfds

    from sslssaw_jax.data.clips import record_features
    from sslssaw_jax.data.dataset import Source, write_dataset_facts
    from sslssaw_jax.data.mbart_tokenizer import train_tokenizer
    from sslssaw_jax.data.video import JPEG_QUALITY

    rows = [
        {
            "id": f"clip{number}",
            "num_frames": frames,
            "question": question,
            "target": target,
            "gloss": "",
            "signer": "",
            "overlap": False,
        }
        for number, (question, target) in enumerate(texts)
    ]

    class LoaderQa(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(builder=self, features=record_features(), disable_shuffling=True)

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, row in enumerate(rows):
                yield number, row | {"video": encoded_clip(number, frames, PREPARED, "jpg")}

    tfds.disable_progress_bar()
    LoaderQa(file_format="array_record", data_dir=folder).download_and_prepare()
    prepared = folder / DATASET / "1.0.0"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (prepared / "clips.train.jsonl").write_text(lines, encoding="utf-8")
    words = [target for _, target in texts] * 3
    train_tokenizer(words, prepared / "tokenizer", vocab_size=vocab_size)
    write_dataset_facts(
        prepared,
        language="en_XX",
        resize="none",
        fps=25.0,
        jpeg_quality=JPEG_QUALITY,
        text_only=False,
        vocab_size=vocab_size,
        frame_size=PREPARED[::-1],
        source=Source(),
    )


def write_files(folder: Path) -> None:
    """Write the same clips as files, `theirs/<type>/<clip>/<number>.<type>`."""
    for kind, size in (("jpg", PREPARED), ("png", RELEASED)):
        for number in range(CLIPS):
            files = folder / "theirs" / kind / f"clip{number}"
            files.mkdir(parents=True)
            for place, encoded in enumerate(encoded_clip(number, FRAMES, size, kind)):
                (files / f"{place:04d}.{kind}").write_bytes(encoded)


def encoded_clip(number: int, frames: int, size: tuple[int, int], kind: str) -> list[bytes]:
    from tfds_builders.avatar import render

    glosses = [f"GLOSS{i}" for i in range(max(1, frames // 14))]
    video = render(glosses, frames, signer=number, size=size, seed=number)
    return [cv2.imencode(f".{kind}", frame[..., ::-1])[1].tobytes() for frame in video]


def ours(folder: Path, case: Case) -> None:
    from sslssaw_jax.config.data import DataConfig
    from sslssaw_jax.config.stages import StageConfig
    from sslssaw_jax.data.batches import train_batches
    from sslssaw_jax.data.dataset import find_dataset
    from sslssaw_jax.data.frame_cache import open_clips
    from sslssaw_jax.data.mbart_tokenizer import load_tokenizer

    cv2.setNumThreads(1)
    data = DataConfig(num_threads=1, cache=case.cache, mask_rate=0.0)
    stage = StageConfig(epochs=case.epochs, clips_per_batch=CLIPS, frame_budget=BUDGET)
    dataset = find_dataset(folder, DATASET)
    source = open_clips(dataset, data, "train")
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language)

    def run() -> int:
        batches = train_batches(source, tokenizer, data, stage, seed=0)
        return sum(int(batch.frame_count.sum()) for batch in batches)

    serve(run)


def theirs(folder: Path, case: Case) -> None:
    import torch
    from PIL import Image

    from benchmarks.torch_peer import repeat_edges

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def load(path: Path) -> torch.Tensor:
        """Load, resize and normalize a frame as torchvision's `ToTensor` and `Normalize` do."""
        image = Image.fromarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)).resize(PREPARED)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(mean).div_(std)

    def clip(files: list[Path]) -> torch.Tensor:
        frames = torch.zeros(len(files), 3, 224, 224)
        for place, path in enumerate(files):
            frames[place] = load(path)[:, 16:240, 16:240]
        return repeat_edges(frames)

    def run() -> int:
        folders = sorted((folder / "theirs" / case.theirs).iterdir())
        torch.cat([clip(sorted(files.iterdir())) for files in folders])
        return CLIPS * FRAMES

    serve(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds that are measured, after one to warm up"
    )
    parser.add_argument("--core", type=int, default=0, help="the core that both sides run on")
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=[*CASES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        {"ours": ours, "theirs": theirs}[options.worker](options.folder, CASES[options.case])
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        write_files(Path(folder))
        for name, case in CASES.items():
            common = [f"--case={name}", f"--folder={folder}"]
            found = compare(
                ["--worker=ours", *common], ["--worker=theirs", *common], options.rounds, options.core
            )
            rates = [found.results[side] / found.seconds[side] for side in ("ours", "theirs")]
            rows.append(
                [
                    f"`{name}`: {case.title}",
                    *(f"{rate:,.0f}" for rate in rates),
                    f"{rates[0] / rates[1]:.1f}",
                    case.goal,
                ]
            )
    header = ["frames", "ours, frames/s", "theirs, frames/s", "ours / theirs", "goal"]
    keep("loader", "From stored frames to batches, frames per second of one core", header, rows)


if __name__ == "__main__":
    main()
