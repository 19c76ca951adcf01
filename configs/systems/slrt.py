"""SLRT, after the public code neccam/slt."""

from configs.systems.shared import (
    CSL_DAILY_TWO_FALLS,
    SIGNJOEY,
    SMALL_TRANSFORMER,
    TWO_FALLS,
    WITHOUT_QUESTION,
)

_WITH_GLOSSES = WITHOUT_QUESTION | {"model.recognition_weight": 1.0}  # 1:1, as the public code is configured
_PUBLISHED = {
    **SIGNJOEY,
    **TWO_FALLS,
    "translate.label_smoothing": 0.0,
    "translate.optim.learning_rate": 1e-3,
    "translate.optim.factor": 0.7,
    "translate.optim.patience": 3,  # 8 evaluations of the public code
    # the public code searches beams from 1 to 10 and alphas to 5 on dev
    "decode.beams": 5,
    "decode.length_norm": "gnmt",
    "decode.length_penalty": 1.0,
    "decode.max_new_tokens": 60,  # pieces; 30 words in the public code
}
SMALL = {
    "slrt": SMALL_TRANSFORMER | WITHOUT_QUESTION,
    "slrt_ctc": SMALL_TRANSFORMER | _WITH_GLOSSES,
    "qb_slrt": SMALL_TRANSFORMER,
}
PUBLISHED = {
    "slrt": _PUBLISHED | WITHOUT_QUESTION,
    "slrt_ctc": _PUBLISHED | _WITH_GLOSSES,
    "qb_slrt": _PUBLISHED,
}
PUBLISHED_ON = {f"csl_daily/{row}": CSL_DAILY_TWO_FALLS for row in PUBLISHED}
