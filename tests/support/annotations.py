"""The folder of the real annotation files, and marks that skip tests without them."""

import os
from pathlib import Path

import pytest

from tfds_builders.annotation import Question
from tfds_builders.csl_daily_qa import annotations as csl_daily
from tfds_builders.phoenix2014t_qa import annotations as phoenix

ANNOTATIONS = Path(
    os.environ.get("SSLSSAW_ANNOTATIONS", Path(__file__).resolve().parents[2].parent / "shared" / "data")
)
"""Folder holding `phoenix2014t_qa/`, `csl_daily_qa/` and `tokenizer/`."""


def _requires(name: str) -> pytest.MarkDecorator:
    path = ANNOTATIONS / name
    return pytest.mark.skipif(
        not path.exists(), reason=f"{path} is absent; SSLSSAW_ANNOTATIONS names its parent"
    )


requires_phoenix = _requires("phoenix2014t_qa/train.txt")
requires_csl = _requires("csl_daily_qa/dev.txt")
requires_labels = _requires("csl_daily_labels/labels.train")
requires_qsl = _requires("qsl_qa/train_slt_2p.txt")
requires_tokenizer = _requires("tokenizer/sentencepiece.bpe.model")


def phoenix_texts(split: str) -> tuple[list[str], list[str]]:
    """Targets and questions of a real split, in its file's order."""
    return _texts(phoenix.read_questions(ANNOTATIONS / "phoenix2014t_qa" / f"{split}.txt", split, []))


def csl_texts(split: str) -> tuple[list[str], list[str]]:
    """Targets and questions of a real split, in its file's order."""
    return _texts(csl_daily.read_questions(ANNOTATIONS / "csl_daily_qa" / f"{split}.txt", split, {}, []))


def _texts(rows: dict[str, Question]) -> tuple[list[str], list[str]]:
    return [row.target for row in rows.values()], [row.question for row in rows.values()]
