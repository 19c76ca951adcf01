"""Where the real annotation files lie, and the marks that skip a test where they are absent."""

import os
from pathlib import Path

import pytest

ANNOTATIONS = Path(
    os.environ.get("SSLSSAW_ANNOTATIONS", Path(__file__).resolve().parents[1].parent / "shared" / "data")
)
"""Folder holding `phoenix2014t_qa/`, `csl_daily_qa/` and `tokenizer/`."""


def _requires(name: str) -> pytest.MarkDecorator:
    path = ANNOTATIONS / name
    return pytest.mark.skipif(
        not path.exists(), reason=f"{path} is absent; SSLSSAW_ANNOTATIONS names its parent"
    )


requires_phoenix = _requires("phoenix2014t_qa/train.txt")
requires_csl = _requires("csl_daily_qa/dev.txt")
requires_tokenizer = _requires("tokenizer/sentencepiece.bpe.model")
