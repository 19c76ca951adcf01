"""The rows of the paper's tables: `--config=configs/ablations.py:BASE/ROW`, such as `demo/table5_lstm`.

A row is a change to its base, the full system SSL-SSAW. Rows of several tables that are the same experiment
are one, whatever table stands before its name. Stage 1 is shared by all rows that do not change it.
"""

import re
from typing import Any

import ml_collections

from configs import demo, phoenix_stage2

BASES = {
    "demo": demo.get_config,
    "phoenix": phoenix_stage2.get_config,
    "phoenix_toy": lambda: phoenix_stage2.get_config("toy"),
}
NO_SSL = {"model.ssl": "off"}
CONCAT = {"model.fusion.kind": "concat"}
ROWS: dict[str, dict[str, Any]] = {
    "ssl_ssaw": {},
    "gloss_free": {"model.inputs": "sign", **CONCAT, **NO_SSL},  # GFSLT-VLP
    "qb": {**CONCAT, **NO_SSL},  # QB-GFSLT-VLP
    "qb_ssl": CONCAT,
    "qb_ssaw": NO_SSL,
    "lstm": {"model.fusion.kind": "lstm"},
    "tcn": {"model.fusion.kind": "tcn"},
    "question": {"model.inputs": "question"},
    "sign": {"model.inputs": "sign", **NO_SSL},
}
"""Name of each row -> what it changes of its base."""


def get_config(row: str = "phoenix/ssl_ssaw") -> ml_collections.ConfigDict:
    base, _, name = row.partition("/")
    name = re.sub(r"^table\d_", "", name)
    if base not in BASES or name not in ROWS:
        raise ValueError(
            f"ablations.py:{row} is unknown; there is BASE/ROW with BASE one of {', '.join(BASES)} "
            f"and ROW one of {', '.join(ROWS)}"
        )
    config = BASES[base]()
    config.name = f"{base}_{name}"
    config.update_from_flattened_dict(ROWS[name])
    return config
