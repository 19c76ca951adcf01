"""The other methods of Tables 1 and 2 that read a question, as changes to a config of stage 2.

Both are trained from scratch in one stage. `QB_*` is what a method is, in whatever size its base has;
`QB_*_PUBLISHED` adds the sizes, dropout and optimiser of its public code (neccam/slt, YinAoXiong/GASLT).
QB-GFSLT-VLP is a row of Table 4: the full system without SSAW and SSL.
"""

from typing import Any

QB_SLRT: dict[str, Any] = {
    "init_from": "none",
    "model.mbart.weights": "",
    "model.mbart.positions": "sinusoidal",
    "model.mbart.activation": "relu",
    "model.mbart.tied_head": False,
    "model.video_activation": "softsign",
    "model.fusion.kind": "concat",  # the question before the video, as in Table 4's QB row
    "model.ssl": "off",
}
"""Sign language transformers (Camgoz et al. 2020), their translation alone: no gloss, so no CTC."""

QB_GASLT = {**QB_SLRT, "model.attention": "gloss", "translate.similarity_weight": 10.0}
"""Gloss attention (Yin et al. 2023), which changes the encoder of the former, and its loss."""

_PUBLISHED = {
    "model.mbart.d_model": 512,
    "model.mbart.ffn_dim": 2048,
    "model.mbart.heads": 8,
    "model.fusion.heads": 8,
    "translate.optim.name": "adam",
    "translate.optim.b1": 0.9,
    "translate.optim.b2": 0.998,
    "translate.optim.weight_decay": 1e-3,
}

QB_SLRT_PUBLISHED = {
    **QB_SLRT,
    **_PUBLISHED,
    "model.mbart.video_layers": 3,
    "model.mbart.decoder_layers": 3,
    "model.mbart.dropout": 0.1,
    "model.mbart.attention_dropout": 0.1,
    "model.mbart.activation_dropout": 0.1,
    "translate.label_smoothing": 0.0,
    "translate.optim.learning_rate": 1e-3,
}

QB_GASLT_PUBLISHED = {
    **QB_GASLT,
    **_PUBLISHED,
    "model.mbart.video_layers": 2,
    "model.mbart.decoder_layers": 2,
    "model.mbart.dropout": 0.5,
    "model.mbart.attention_dropout": 0.5,
    "model.mbart.activation_dropout": 0.5,
    "translate.label_smoothing": 0.4,
    "translate.optim.learning_rate": 5e-4,
}
