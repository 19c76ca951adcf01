"""The tables of the paper, with rows that are trained here."""

import json
from pathlib import Path
from typing import Any

PAPER: dict[str, Any] = json.loads(Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))
"""Number of each table -> its layout and rows, with the paper's scores in the order of `metrics.LABELS`."""

BASES = {
    "avatar_qa": "demo",
    "phoenix2014t_qa": "phoenix",
    "csl_daily_qa": "csl_daily",
    "rehearsal": "rehearsal",
    "rehearsal_poor": "rehearsal_poor",
}
"""Dataset -> the base of its rows in `configs/ablations.py`; for the rehearsal, see `docs/rehearsal.md`."""

TOY = "_toy"
"""Suffix of the names of small bases, to try out a table."""

WITH_TOY = ("phoenix2014t_qa", "csl_daily_qa")
"""The datasets whose base also has a small version; the others are small anyway."""
