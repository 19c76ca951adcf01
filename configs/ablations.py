"""The rows of the paper's tables: `--config=configs/ablations.py:BASE/ROW`, such as `demo/table5_lstm`.

A row is a change to its base, the full system SSL-SSAW. Rows of several tables that are the same experiment
are one, whatever table stands before its name. All rows share the stage 1 of their base, but those that
change it, which have their own, and those from scratch, which have none.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_collections

from configs import baselines, csl_daily_stage2, demo, phoenix_stage2

BASES: dict[str, Callable[[], ml_collections.ConfigDict]] = {
    "demo": demo.get_config,
    "phoenix": phoenix_stage2.get_config,
    "phoenix_toy": partial(phoenix_stage2.get_config, "toy"),
    "csl_daily": csl_daily_stage2.get_config,
    "csl_daily_toy": partial(csl_daily_stage2.get_config, "toy"),
}
NO_SSL = {"model.ssl": "off"}
CONCAT = {"model.fusion.kind": "concat"}
SHUFFLENET = {"model.cnn": "shufflenet"}
MBERT = {"model.text": "mbert"}
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
    "qb_slrt": baselines.QB_SLRT,
    "qb_gaslt": baselines.QB_GASLT,
}
"""Name of each row -> what it changes of its base."""
OWN_STAGE_1: dict[str, dict[str, Any]] = {
    "text_to_video": {"model.alignment": "text_to_video"},
    "video_to_text": {"model.alignment": "video_to_text"},
    "shufflenet": SHUFFLENET,
    "mbert": MBERT,
    "shufflenet_mbert": {**SHUFFLENET, **MBERT},
}
"""The same of the rows that change stage 1."""
IMAGENET_SHUFFLENET = {"model.cnn_weights": "./pretrained/shufflenetv2_x1-5666bf0f80.pth"}  # torchvision's
FULL_SIZE: dict[str, dict[str, Any]] = {
    "qb_slrt": baselines.QB_SLRT_PUBLISHED,
    "qb_gaslt": baselines.QB_GASLT_PUBLISHED,
    "shufflenet": IMAGENET_SHUFFLENET,
    "shufflenet_mbert": IMAGENET_SHUFFLENET,
}
"""What a row changes besides where its base is not a small model from scratch."""


def get_config(row: str = "phoenix/ssl_ssaw") -> ml_collections.ConfigDict:
    base, _, name = row.partition("/")
    name = re.sub(r"^table\d_", "", name)
    rows = ROWS | OWN_STAGE_1
    if base not in BASES or name not in rows:
        raise ValueError(
            f"ablations.py:{row} is unknown; there is BASE/ROW with BASE one of {', '.join(BASES)} "
            f"and ROW one of {', '.join(rows)}"
        )
    config = BASES[base]()
    config.name = f"{base}_{name}"
    if name in OWN_STAGE_1:
        config.init_from = f"{config.name}_stage1"
    config.update_from_flattened_dict(rows[name])
    if base in ("phoenix", "csl_daily"):
        config.update_from_flattened_dict(FULL_SIZE.get(name, {}))
    return config
