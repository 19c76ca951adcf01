"""A tiny CSL-Daily-QA in the official layout, for tests."""

import pickle
from pathlib import Path
from typing import Any

import cv2

from tests.support.phoenix_release import picture
from tfds_builders.csl_daily_qa.annotations import (
    FRAMES,
    LABELS,
    MAP_FILE,
    MAP_HEADER,
    PICKLE_FILE,
    QUESTIONS,
    SPLIT_FILE,
)

# name, split in the split file, annotated, question row of this split
CLIPS = (
    ("S000001_P0000_T00", "train", True, "train"),
    ("S000002_P0001_T00", "train", True, "train"),
    ("S000005_P0004_T00", "train", False, ""),
    ("S000007_P0003_T00", "", True, "train"),
    ("S000020_P0000_T00", "dev", True, "dev"),
    ("S000020_P0004_T00", "test", True, "test"),
)
TARGET, QUESTION, GLOSS = "他今年四岁，对吗？", "你儿子几岁？", ["他", "今天", "年龄", "4"]


def pickled() -> dict[str, Any]:
    """Return the contents of `csl2020ct_v2.pkl`."""
    info = [
        {
            "name": name,
            "length": 3,
            "signer": 0,
            "label_gloss": GLOSS,
            "label_char": list(TARGET),
            "label_word": ["他", "今年", "四岁"],
            "label_postag": ["r", "t", "m"],
        }
        for name, _, annotated, _ in CLIPS
        if annotated
    ]
    return {"info": info, "gloss_map": sorted(GLOSS)}


def write_release(folder: Path, *, frames: str = FRAMES, labels: str = PICKLE_FILE) -> None:
    """Write three frames per clip; the question of `S000002` is its sentence, and is marked."""
    (folder / LABELS).mkdir(parents=True)
    (folder / QUESTIONS).mkdir()
    rows: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    mapped, split_rows = [MAP_HEADER], ["name|split"]
    for number, (name, split, annotated, question_split) in enumerate(CLIPS):
        known = f"{number:06d}|{name}|3|{' '.join(GLOSS)}|{' '.join(TARGET)}|他 今年 四岁 ，对 吗 ？"
        if split:
            split_rows.append(f"{name}|{split}")
        if annotated:
            mapped.append(f"{known}|r t m")
            clip = folder / frames / name
            clip.mkdir(parents=True)
            for t in range(3):
                (clip / f"{t:06d}.jpg").write_bytes(
                    cv2.imencode(".jpg", picture(10 * number + t))[1].tobytes()
                )
        if question_split:
            marked = name.startswith("S000002")
            question = f"{' '.join(TARGET)}||Overlap!" if marked else "你 儿子 几 岁？|"
            rows[question_split].append(f"{known}|{question}")
    (folder / LABELS / SPLIT_FILE).write_text("\n".join(split_rows), encoding="utf-8")
    if labels == MAP_FILE:
        (folder / LABELS / MAP_FILE).write_text("\n".join(mapped), encoding="utf-8")
    else:
        (folder / LABELS / labels).write_bytes(pickle.dumps(pickled()))
    for split, part in rows.items():
        (folder / QUESTIONS / f"{split}.txt").write_text("\n".join(part), encoding="utf-8")
