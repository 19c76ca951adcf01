"""A tiny PHOENIX-2014T-QA in the official layout, for tests."""

from pathlib import Path

import cv2
import numpy as np

from tfds_builders.annotation import SPLITS
from tfds_builders.phoenix2014t_qa.annotations import ANNOTATIONS, CORPUS_HEADER, FRAMES

SIZE = (40, 32)  # height, width


def picture(seed: int) -> np.ndarray:
    """Draw a smooth picture, `uint8[40, 32, 3]` RGB, so that JPEG loses little."""
    rng = np.random.default_rng(seed)
    return cv2.resize(
        rng.integers(0, 256, (3, 3, 3), dtype=np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC
    )


def clip_name(split: str, number: int) -> str:
    return f"01April_2010_Thursday_{split}-{number}"


def write_release(
    folder: Path,
    num_clips: dict[str, int],
    *,
    num_frames: int = 3,
    inner_folder: str = "",
    suffix: str = ".png",
) -> None:
    """Write the release; frame t of clip i is `picture(100 * i + t)`."""
    for split in SPLITS:
        corpus, questions = [CORPUS_HEADER], []
        for i in range(num_clips[split]):
            name = clip_name(split, i)
            target, gloss = f"am tag {i} regnet es im norden", f"TAG-{i} NORD REGEN"
            corpus.append(f"{name}|{name}/1/*.png|-1|-1|Signer0{i + 1}|{gloss}|{target}")
            questions.append(f"{split}/{name} {target}%Wo regnet es am Tag {i}%{gloss}")
            clip = folder / FRAMES / split / name / inner_folder
            clip.mkdir(parents=True)
            for t in range(num_frames):
                bgr = np.ascontiguousarray(picture(100 * i + t)[..., ::-1])
                _, data = cv2.imencode(suffix, bgr)
                (clip / f"images{t + 1:04d}{suffix}").write_bytes(data.tobytes())
        corpus_file = folder / ANNOTATIONS / f"PHOENIX-2014-T.{split}.corpus.csv"
        corpus_file.parent.mkdir(parents=True, exist_ok=True)
        corpus_file.write_text("\n".join(corpus) + "\n", encoding="utf-8")
        question_file = folder / "questions" / f"{split}.txt"
        question_file.parent.mkdir(exist_ok=True)
        question_file.write_text("\n".join(questions), encoding="utf-8")
