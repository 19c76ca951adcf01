"""The rows of the paper's tables: `--config=configs/ablations.py:BASE/ROW`, such as `demo/lstm`.

A row is a change to its base, the full system SSL-SSAW. Rows of several tables that are the same experiment
have the same name. All rows share their base's stage 1, except rows that change stage 1, which have their
own, and rows from scratch, which have none.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from configs import csl_daily_stage2, demo, phoenix_stage2, rehearsal
from configs.common import use_system
from configs.systems import OTHER_SYSTEMS, PUBLISHED, PUBLISHED_ON, SMALL
from sslssaw_jax.config.checks import ConfigError

BASES: dict[str, Callable[[], ConfigDict]] = {
    "demo": demo.get_config,
    "phoenix": phoenix_stage2.get_config,
    "phoenix_toy": partial(phoenix_stage2.get_config, "toy"),
    "csl_daily": csl_daily_stage2.get_config,
    "csl_daily_toy": partial(csl_daily_stage2.get_config, "toy"),
    "rehearsal": rehearsal.get_config,
    "rehearsal_poor": partial(rehearsal.get_config, "poor"),
}
FULL_SIZE = ("phoenix", "csl_daily")
NO_SSL = {"model.ssl": "off"}
CONCAT = {"model.fusion.kind": "concat"}
SHUFFLENET = {"model.cnn.kind": "shufflenet"}
MBERT = {"model.text_encoder": "mbert"}
ROWS: dict[str, dict[str, Any]] = {
    "ssl_ssaw": {},
    "gloss_free": {"model.inputs": "video", **CONCAT, **NO_SSL},  # GFSLT-VLP
    "qb": {**CONCAT, **NO_SSL},  # QB-GFSLT-VLP
    "qb_ssl": CONCAT,
    "qb_ssaw": NO_SSL,
    "lstm": {"model.fusion.kind": "lstm"},
    "tcn": {"model.fusion.kind": "tcn"},
    "question": {"model.inputs": "question"},
    "video": {"model.inputs": "video", **NO_SSL},
}
"""Name of each row of SSL-SSAW -> what it changes in its base."""
OWN_STAGE_1: dict[str, dict[str, Any]] = {
    "text_to_video": {"model.alignment": "text_to_video"},
    "video_to_text": {"model.alignment": "video_to_text"},
    "shufflenet": SHUFFLENET,
    "mbert": MBERT,
    "shufflenet_mbert": {**SHUFFLENET, **MBERT},
}
"""The rows of SSL-SSAW that also change stage 1."""
WHY: dict[str, dict[str, Any]] = {
    "no_gate_norm": {"model.fusion.gate_norm": False},
    "light_ssl": {"model.ssl_weight": 0.2},
    "fast_fusion": {"translate.optim.groups": ("fusion=5",)},  # starts random between pretrained parts
    "full_gate": {"model.fusion.gate_scale": 2.0},
    "transformer": {"model.fusion.kind": "transformer"},  # SSAW without its sigmoid and product
    "convolution": {"model.fusion.convolution": True},
    "positions": {"model.fusion.positions": True},
    "concat_positions": {**CONCAT, "model.fusion.positions": True},
    "question_no_ssl": {"model.inputs": "question", **NO_SSL},
}
"""Rows in no table that examine why SSL or SSAW helps or does not."""
OTHERS_ON_DEMO = {
    "pretrain.epochs": 2,
    "pretrain.optim.learning_rate": 1e-3,
    "translate.epochs": 6,
    "translate.eval_every": 2,
    "translate.optim.learning_rate": 1e-3,
}
"""What other systems change in the demo's recipe, which is for a model without dropout."""
SHUFFLENET_WEIGHTS = "./pretrained/shufflenetv2_x1-5666bf0f80.pth"  # torchvision's


def get_config(row: str = "phoenix/ssl_ssaw") -> ConfigDict:
    """Return the configuration of a row."""
    base, _, name = row.partition("/")
    rows = ROWS | OWN_STAGE_1 | WHY
    if base not in BASES or name not in (*rows, *OTHER_SYSTEMS):
        raise ConfigError(
            f"ablations.py:{row} is unknown; use BASE/ROW with BASE one of {', '.join(BASES)} "
            f"and ROW one of {', '.join([*rows, *OTHER_SYSTEMS])}"
        )
    config = BASES[base]()
    config.name = f"{base}_{name}"
    if name in OTHER_SYSTEMS:
        use_system(config, OTHER_SYSTEMS[name])
        config.update_from_flattened_dict(_changes(base, name))
        if row in PUBLISHED_ON:
            config.update_from_flattened_dict(PUBLISHED_ON[row])
        return config
    if name in OWN_STAGE_1:
        config.init_from = f"{config.name}_stage1"
    config.update_from_flattened_dict(rows[name])
    if base in FULL_SIZE and config.model.cnn.kind == "shufflenet":
        config.model.cnn.weights = SHUFFLENET_WEIGHTS
    return config


def _changes(base: str, name: str) -> dict[str, Any]:
    """Return what a row of another system changes in a base."""
    if base in FULL_SIZE:
        return PUBLISHED[name]
    if base.startswith("rehearsal"):
        return {key: 256 if value == 128 else value for key, value in SMALL[name].items()}  # as wide as ours
    return (OTHERS_ON_DEMO if base == "demo" else {}) | SMALL[name]
