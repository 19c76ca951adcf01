"""The other systems of Tables 1 and 2: small sizes and published recipes.

Their defaults are the published sizes. GFSLT-VLP and QB-GFSLT-VLP are rows of Table 4: SSL-SSAW without SSAW
and SSL, and without the question.
"""

from typing import Any

OTHER_SYSTEMS = {
    "mmtlb": "mmtlb",
    "nslt": "nslt",
    "nslt_bahdanau": "nslt",
    "nslt_luong": "nslt",
    "slrt": "slrt",
    "slrt_ctc": "slrt",
    "gaslt": "gaslt",
    "qb_slrt": "slrt",
    "qb_gaslt": "gaslt",
    "tspnet": "tspnet",
}
"""The rows of other systems -> the system's name."""

_WITHOUT_QUESTION = {"model.reads_question": False}
_WITH_GLOSSES = _WITHOUT_QUESTION | {"model.recognition_weight": 1.0}  # 1:1, as the public code is configured

_SMALL = {
    "translate.normalize": "clips",
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
_MMTLB_SMALL = {
    "model.visual": "cnn",  # S3D takes longer on a CPU
    "model.cnn_width": 128,
    "model.gloss_head.d_model": 128,
    "model.gloss_head.ffn_dim": 512,
    "model.mbart.d_model": 128,
    "model.mbart.ffn_dim": 512,
    "model.mbart.encoder_layers": 2,
    "model.mbart.decoder_layers": 2,
    "model.mbart.heads": 4,
    "model.mbart.max_positions": 256,
    "model.mbart.dropout": 0.1,
    "model.mbart.attention_dropout": 0.0,
    "recognize.epochs": 3,
    "recognize.clips_per_batch": 8,
    "recognize.frame_budget": 360,
    "gloss2text.epochs": 8,
    "gloss2text.clips_per_batch": 16,
    "gloss2text.frame_budget": 640,
    "gloss2text.eval_every": 4,
    "gloss2text.label_smoothing": 0.1,
    **{
        f"{stage}.optim.{key}": value
        for stage in ("recognize", "gloss2text")
        for key, value in {
            "name": "adamw",
            "learning_rate": 1e-3,
            "final_learning_rate": 1e-5,
            "b2": 0.999,
            "weight_decay": 1e-4,
            "clip_norm": 1.0,
        }.items()
    },
    "translate.optim.groups": ("video=0",),
}
_SMALL_NSLT = {
    "translate.normalize": "clips",
    "model.units": 128,
    "model.layers": 2,
    "model.embedding": 128,
    "model.dropout": 0.1,
}
_NSLT_ATTENTION = {
    "nslt": {"model.attention": "none"},
    "nslt_bahdanau": {"model.attention": "bahdanau"},
    "nslt_luong": {"model.attention": "luong"},
}
SMALL: dict[str, dict[str, Any]] = {
    "mmtlb": _MMTLB_SMALL,
    **{row: _SMALL_NSLT | attention for row, attention in _NSLT_ATTENTION.items()},
    "slrt": _SMALL | _WITHOUT_QUESTION,
    "slrt_ctc": _SMALL | _WITH_GLOSSES,
    "gaslt": _SMALL | _WITHOUT_QUESTION,
    "qb_slrt": _SMALL,
    "qb_gaslt": _SMALL,
    "tspnet": {**_SMALL, "model.decoder_d_model": 128, "model.decoder_heads": 4},
}
"""What each row changes on a small base."""

# The public codes score dev every 100 steps of 32 clips, 2.2 times an epoch of PHOENIX; here it is once an
# epoch, with a patience of as many steps. Their alpha of -1 divides by no length.
_SIGNJOEY = {
    "translate.epochs": 500,  # the plateau ends training
    "translate.normalize": "clips",
    "translate.clips_per_batch": 24,  # 16 on average, see `configs/phoenix_stage2.py`
    "translate.frame_budget": 1872,
    "translate.accumulate": 2,
    "translate.optim.name": "adam",
    "translate.optim.b1": 0.9,
    "translate.optim.b2": 0.998,
    "translate.optim.weight_decay": 1e-3,
    "translate.optim.schedule": "plateau",
    "translate.optim.final_learning_rate": 1e-7,
}
_SLRT = {
    **_SIGNJOEY,
    "translate.label_smoothing": 0.0,
    "translate.optim.learning_rate": 1e-3,
    "translate.optim.factor": 0.7,
    "translate.optim.patience": 3,  # 8 of their evaluations
    # the public code searches beams from 1 to 10 and alphas to 5 on dev
    "decode.beams": 5,
    "decode.length_norm": "gnmt",
    "decode.length_penalty": 1.0,
    "decode.max_new_tokens": 60,  # pieces; 30 words there
}
_GASLT = {
    **_SIGNJOEY,
    "translate.label_smoothing": 0.4,
    "translate.optim.learning_rate": 5e-4,
    "translate.optim.factor": 0.5,
    "translate.optim.patience": 4,  # 9 of their evaluations
    "decode.beams": 10,
    "decode.length_penalty": 0.0,
    "decode.max_new_tokens": 40,
}
_MMTLB_ADAM = {"name": "adam", "b1": 0.9, "b2": 0.998, "weight_decay": 1e-3}
_MMTLB = {
    **{
        f"{stage}.optim.{key}": value
        for stage in ("recognize", "gloss2text", "translate")
        for key, value in _MMTLB_ADAM.items()
    },
    "model.s3d.weights": "./pretrained/S3D_kinetics400.pt",
    "model.mbart.weights": "./pretrained/mbart_trimmed",
    "recognize.epochs": 40,
    "recognize.clips_per_batch": 8,
    "recognize.frame_budget": 1600,  # on average 8 clips of PHOENIX
    "recognize.optim.learning_rate": 1e-3,
    "recognize.optim.groups": ("video.s3d.stem=0",),
    "gloss2text.clips_per_batch": 64,
    "gloss2text.normalize": "clips",
    "gloss2text.label_smoothing": 0.2,
    "gloss2text.optim.learning_rate": 1e-5,
    "gloss2text.optim.groups": ("embedding=0", "gloss_embedding=0", "ending=0"),
    "translate.epochs": 40,
    "translate.clips_per_batch": 8,
    "translate.frame_budget": 1600,
    "translate.normalize": "clips",
    "translate.label_smoothing": 0.2,
    "decode.beams": 5,
    "decode.length_penalty": 1.0,
    "decode.max_new_tokens": 100,
}
_TSPNET = {
    "translate.epochs": 200,
    "translate.clips_per_batch": 24,
    "translate.frame_budget": 1872,
    "translate.accumulate": 2,  # 4,096 positions there
    "translate.label_smoothing": 0.1,
    "translate.optim.name": "adam",
    "translate.optim.learning_rate": 1e-4,
    "translate.optim.b2": 0.999,
    "translate.optim.weight_decay": 1e-4,
    "translate.optim.schedule": "plateau",
    "translate.optim.factor": 0.5,
    "translate.optim.patience": 8,
    "decode.beams": 10,
    "decode.length_penalty": 1.0,
}
_NSLT = {
    "translate.epochs": 21,  # of PHOENIX, 150,000 steps
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
    "decode.max_new_tokens": 80,  # pieces; 40 words there
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "mmtlb": _MMTLB,
    **{row: _NSLT | attention for row, attention in _NSLT_ATTENTION.items()},
    "slrt": _SLRT | _WITHOUT_QUESTION,
    "slrt_ctc": _SLRT | _WITH_GLOSSES,
    "gaslt": _GASLT | _WITHOUT_QUESTION,
    "qb_slrt": _SLRT,
    "qb_gaslt": _GASLT,
    "tspnet": _TSPNET,
}
"""The recipe of each row by the public codes neccam/nslt, neccam/slt, YinAoXiong/GASLT,
verashira/TSPNet and FangyunWei/SLRT."""

_FROZEN = ("video=0", "embedding=0", "ending=0")
PUBLISHED_ON: dict[str, dict[str, Any]] = {
    "phoenix/mmtlb": {
        "gloss2text.epochs": 80,
        "translate.optim.learning_rate": 1e-3,
        "translate.optim.groups": (*_FROZEN, "encoder=0.01", "decoder=0.01"),
    },
    "csl_daily/mmtlb": {
        "model.mapper": "embedding",
        "gloss2text.epochs": 4,
        "translate.optim.learning_rate": 1e-4,
        "translate.optim.groups": (*_FROZEN, "encoder=0.1", "decoder=0.1"),
    },
}
"""What the public recipe of a row has of its own on one dataset."""
