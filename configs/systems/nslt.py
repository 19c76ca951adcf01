"""NSLT, after the public code neccam/nslt."""

_ATTENTION = {
    "nslt": {"model.attention": "none"},
    "nslt_bahdanau": {"model.attention": "bahdanau"},
    "nslt_luong": {"model.attention": "luong"},
}
_SMALL = {
    "translate.normalize": "clips",
    "model.units": 128,
    "model.layers": 2,
    "model.embedding": 128,
    "model.dropout": 0.1,
}
_PUBLISHED = {
    "translate.epochs": 21,  # 150,000 steps on PHOENIX
    "translate.normalize": "clips",
    "translate.clips_per_batch": 1,
    "translate.frame_budget": 300,
    "translate.label_smoothing": 0.0,
    "translate.optim.name": "adam",
    "translate.optim.b2": 0.999,
    "translate.optim.learning_rate": 1e-5,
    "translate.optim.schedule": "constant",
    "translate.optim.weight_decay": 0.0,
    "translate.optim.clip_norm": 5.0,
    "decode.beams": 3,
    "decode.length_penalty": 0.0,
    "decode.max_new_tokens": 80,  # pieces; 40 words in the public code
}
SMALL = {row: _SMALL | attention for row, attention in _ATTENTION.items()}
PUBLISHED = {row: _PUBLISHED | attention for row, attention in _ATTENTION.items()}
PUBLISHED_ON = {f"csl_daily/{row}": {"translate.epochs": 8} for row in PUBLISHED}  # the same number of steps
