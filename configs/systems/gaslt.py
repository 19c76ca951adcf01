"""GASLT, after the public code YinAoXiong/GASLT."""

from configs.systems.shared import CSL_DAILY_PATIENCE, SIGNJOEY, SMALL_TRANSFORMER, WITHOUT_QUESTION

_PUBLISHED = {
    **SIGNJOEY,
    "translate.label_smoothing": 0.4,
    "translate.optim.learning_rate": 5e-4,
    "translate.optim.factor": 0.5,
    "translate.optim.patience": 4,  # 9 evaluations of the public code
    # the public code's evaluations during training; for test it searches beams to 10 and alphas to 5 on dev
    "decode.beams": 10,
    "decode.length_penalty": 0.0,
    "decode.max_new_tokens": 40,
}
SMALL = {
    "gaslt": SMALL_TRANSFORMER | WITHOUT_QUESTION,
    "qb_gaslt": SMALL_TRANSFORMER,
}
PUBLISHED = {
    "gaslt": _PUBLISHED | WITHOUT_QUESTION,
    "qb_gaslt": _PUBLISHED,
}
PUBLISHED_ON = {f"csl_daily/{row}": CSL_DAILY_PATIENCE for row in PUBLISHED}
