"""Make the demo model that comes with the package: `python -m benchmarks.ship_demo runs/demo_words data`.

The arguments are the workdir of a finished demo, whose training `docs/demo.md` continues with words missing
from the questions, and the folder of its dataset. The weights are stored as float16, which must not change
any translation of the test split. Videos of test clips are stored next to them.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.translator import write_clip
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.inference.demo import DEMO, EXAMPLES
from sslssaw_jax.inference.trained_model import MODEL_WEIGHTS
from sslssaw_jax.inference.translator import Translator
from sslssaw_jax.workdir import write_jsonl
from tfds_builders.avatar_qa.avatar_qa_dataset_builder import NUM_CLIPS, SEED
from tfds_builders.avatar_qa.grammar import rows

# clip, question; the second question about a clip is answered by the other reading of its signs
SHOWN = [
    ("test-0009", "When will she bring flour?", "on sunday the queen will bring old flour"),
    ("test-0009", "What weather will come on Sunday?", "on sunday cold snow will come at the coast"),
    ("test-0006", "Which woman did cook tea?", "the girl cooked good tea at seven o'clock"),
    ("test-0001", "What did she get on Friday?", "on friday the sister cooked new flour"),
]


def main() -> None:
    workdir, data_dir = map(Path, sys.argv[1:])
    whole = Translator.from_pretrained(workdir)
    shutil.rmtree(DEMO, ignore_errors=True)
    whole.save_pretrained(DEMO)
    halves = {name: array.astype(np.float16) for name, array in load_file(DEMO / MODEL_WEIGHTS).items()}
    save_file(halves, DEMO / MODEL_WEIGHTS)

    shipped = Translator.from_pretrained(DEMO)
    test = ClipSource(find_dataset(data_dir, "avatar_qa"), "test")
    clips = [test[index] for index in range(len(test))]
    pairs = list(zip(whole.answer(clips), shipped.answer(clips)))
    assert all(before.text == after.text for before, after in pairs), "float16 changes a translation"
    print(f"scores differ by at most {max(abs(before.score - after.score) for before, after in pairs):.4f}")

    by_id = {row.id: row for row in rows(NUM_CLIPS, SEED)["test"]}
    examples = [
        {"video": f"{name}.webm", "question": question, "text": text} for name, question, text in SHOWN
    ]
    for name in {name for name, _, _ in SHOWN}:
        write_clip(by_id[name], DEMO / f"{name}.webm")
    write_jsonl(DEMO / EXAMPLES, examples)
    for example in examples:
        answer = shipped(DEMO / example["video"], example["question"])
        print(f"{example['question']}\n  {answer.text}  {answer.score:.3f}")
        assert answer.text == example["text"], example["text"]
    print(f"{sum(file.stat().st_size for file in DEMO.rglob('*')) / 1e6:.1f} MB in {DEMO}")


if __name__ == "__main__":
    main()
