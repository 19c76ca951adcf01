"""TS-SLT, after the public code FangyunWei/SLRT; its Gloss2Text is MMTLB's."""

from typing import Any

from configs.systems import mmtlb

_HEADS = ("video", "keypoints", "joint")
_SMALL = {
    **mmtlb.SMALL["mmtlb"],
    "data.features": (),  # frames and keypoints, or a feature set of each
    "data.keypoints": "avatar",
    "model.cnn_width": 96,
    "recognize.epochs": 2,  # points say more than pixels
    "model.sigma": 8.0,
    "model.raster": (170, 170),
}


def _writers(rate: float, **parts: float) -> tuple[str, ...]:
    """Return the learning rates of the three writers, and of some parts."""
    named = [f"writers.{head}.{part}={factor:g}" for head in _HEADS for part, factor in parts.items()]
    return (f"writers={rate:g}", *named)


_PUBLISHED = {
    **mmtlb.PUBLISHED["mmtlb"],
    "data.keypoints": "keypoints",
    "model.s3d.weights": "./pretrained/S3D_kinetics400.pt",
    "translate.accumulate": 8,  # 64 clips a step, on 8 GPUs
    "translate.optim.learning_rate": 1e-3,
}
SMALL = {"ts_slt": _SMALL}
PUBLISHED = {"ts_slt": _PUBLISHED}
PUBLISHED_ON: dict[str, dict[str, Any]] = {
    "phoenix/ts_slt": {
        "gloss2text.epochs": 80,
        "translate.optim.groups": ("video=0", "heads=0.3", *_writers(0.01, mapper=1)),
    },
    "csl_daily/ts_slt": {
        "model.mbart.weights": "./pretrained/mbart_glosses_csl",
        "model.raster": (170, 170),
        "model.mapper": "embedding",
        "gloss2text.epochs": 4,
        "gloss2text.optim.schedule": "constant",
        "translate.optim.groups": ("video=0", "heads=0.1", *_writers(0.01, mapper=0.1)),
    },
}
"""What is special in the public recipe for one dataset."""
