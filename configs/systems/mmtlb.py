"""MMTLB, after the public code FangyunWei/SLRT."""

from typing import Any

from configs.systems.shared import ADAM, small_stage

_SMALL = {
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
    **small_stage("recognize", 8, 360),
    "gloss2text.epochs": 8,
    **small_stage("gloss2text", 16, 640),
    "gloss2text.eval_every": 4,
    "gloss2text.label_smoothing": 0.1,
    "translate.optim.groups": ("video=0",),
}
_PUBLISHED = {
    **{
        f"{stage}.optim.{key}": value
        for stage in ("recognize", "gloss2text", "translate")
        for key, value in ADAM.items()
    },
    "model.s3d.weights": "./pretrained/S3D_wlasl.pth.tar",  # after Kinetics, WLASL
    "model.mbart.weights": "./pretrained/mbart_glosses",  # trimmed with --glosses
    "recognize.epochs": 40,
    "recognize.clips_per_batch": 8,
    "recognize.frame_budget": 1600,  # on average 8 clips of PHOENIX
    "recognize.optim.learning_rate": 1e-3,
    "recognize.optim.groups": ("video.s3d.stem=0",),
    "gloss2text.clips_per_batch": 64,
    "gloss2text.normalize": "clips",
    "gloss2text.label_smoothing": 0.2,
    "gloss2text.optim.learning_rate": 1e-5,
    "gloss2text.optim.groups": ("embedding=0", "source_embedding=0", "ending=0"),
    "translate.epochs": 40,
    "translate.clips_per_batch": 8,
    "translate.frame_budget": 1600,
    "translate.normalize": "clips",
    "translate.label_smoothing": 0.2,
    "decode.beams": 5,
    "decode.length_penalty": 1.0,
    "decode.max_new_tokens": 100,
}


def _writer(rate: float) -> tuple[str, ...]:
    """Return the learning rates of the parts from both earlier stages."""
    return ("video=0", *(f"{part}={rate:g}" for part in ("embedding", "ending", "encoder", "decoder")))


SMALL = {"mmtlb": _SMALL}
PUBLISHED = {"mmtlb": _PUBLISHED}
PUBLISHED_ON: dict[str, dict[str, Any]] = {
    "phoenix/mmtlb": {
        "gloss2text.epochs": 80,
        "translate.optim.learning_rate": 1e-3,
        "translate.optim.groups": _writer(0.01),
    },
    "csl_daily/mmtlb": {
        "model.mbart.weights": "./pretrained/mbart_glosses_csl",
        "model.mapper": "embedding",
        "gloss2text.epochs": 4,  # the first 4 of a cosine over 80
        "gloss2text.optim.schedule": "constant",
        "translate.optim.learning_rate": 1e-4,
        "translate.optim.groups": _writer(0.1),
    },
}
"""What is special in the public recipe for one dataset."""
