"""BTT and SignBT: a reconstruction with the recipe of SLRT's public code, on which the paper builds."""

from configs.systems.shared import (
    ADAM,
    CSL_DAILY_TWO_FALLS,
    SIGNJOEY,
    SMALL_TRANSFORMER,
    TWO_FALLS,
    small_stage,
)

_WITHOUT = {"model.synthetic_ratio": 0.0}
_POSITIONS = {"translate.optim.groups": ("video=0",)}
_SMALL = {
    **SMALL_TRANSFORMER,
    **_POSITIONS,
    "model.width": 128,
    **{
        f"model.text2gloss.{key.removeprefix('model.')}": value
        for key, value in SMALL_TRANSFORMER.items()
        if key.startswith("model.")
    },
    "recognize.epochs": 3,
    **small_stage("recognize", 8, 360),
    "text2gloss.epochs": 8,
    **small_stage("text2gloss", 16, 640),
}
_PUBLISHED = {
    **SIGNJOEY,
    **TWO_FALLS,
    **_POSITIONS,
    **{f"{stage}.optim.{key}": x for stage in ("recognize", "text2gloss") for key, x in ADAM.items()},
    "recognize.epochs": 40,
    "recognize.clips_per_batch": 8,
    "recognize.frame_budget": 1600,  # on average 8 clips of PHOENIX
    "recognize.optim.learning_rate": 1e-4,
    "text2gloss.epochs": 40,
    "text2gloss.clips_per_batch": 64,
    "text2gloss.patience": 5,
    "text2gloss.optim.learning_rate": 5e-4,
    "text2gloss.optim.warmup_steps": 400,
    "translate.epochs": 200,  # the plateau ends training
    "translate.label_smoothing": 0.0,
    "translate.optim.learning_rate": 1e-3,
    "translate.optim.factor": 0.7,
    "translate.optim.patience": 3,
    "decode.beams": 5,
    "decode.length_norm": "gnmt",
    "decode.length_penalty": 1.0,
    "decode.max_new_tokens": 60,  # pieces; 30 words in SLRT's code
}
SMALL = {"btt": _SMALL | _WITHOUT, "signbt": _SMALL}
PUBLISHED = {"btt": _PUBLISHED | _WITHOUT, "signbt": _PUBLISHED}
PUBLISHED_ON = {f"csl_daily/{row}": CSL_DAILY_TWO_FALLS for row in PUBLISHED}
