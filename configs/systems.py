"""The other systems of Tables 1 and 2: small sizes and published recipes.

Their defaults are the published sizes. QB-GFSLT-VLP is a row of Table 4: SSL-SSAW without SSAW and SSL.
"""

from typing import Any

OTHER_SYSTEMS = {"qb_slrt": "slrt", "qb_gaslt": "gaslt", "tspnet": "tspnet"}
"""The rows of other systems -> the system's name."""

_SMALL = {
    "model.d_model": 128,
    "model.ffn_dim": 512,
    "model.encoder_layers": 2,
    "model.decoder_layers": 2,
    "model.heads": 4,
    "model.max_positions": 256,
    "model.dropout": 0.1,
    "model.attention_dropout": 0.0,
    "model.activation_dropout": 0.0,
}
SMALL: dict[str, dict[str, Any]] = {
    "slrt": _SMALL,
    "gaslt": _SMALL,
    "tspnet": {**_SMALL, "model.decoder_d_model": 128, "model.decoder_heads": 4},
}
"""What each system changes on a small base."""

_SIGNJOEY = {
    "translate.optim.name": "adam",
    "translate.optim.b1": 0.9,
    "translate.optim.b2": 0.998,
    "translate.optim.weight_decay": 1e-3,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "slrt": {
        **_SIGNJOEY,
        "translate.label_smoothing": 0.0,
        "translate.optim.learning_rate": 1e-3,
    },
    "gaslt": {
        **_SIGNJOEY,
        "translate.label_smoothing": 0.4,
        "translate.optim.learning_rate": 5e-4,
    },
    "tspnet": {
        "translate.label_smoothing": 0.1,
        "translate.optim.name": "adam",
        "translate.optim.learning_rate": 1e-4,
        "translate.optim.b2": 0.999,
        "translate.optim.weight_decay": 1e-4,
        "decode.beams": 10,
    },
}
"""The recipe of each system's public code: neccam/slt, YinAoXiong/GASLT and verashira/TSPNet."""
