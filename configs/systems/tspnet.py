"""TSPNet, after the public code verashira/TSPNet."""

from configs.systems.shared import SMALL_TRANSFORMER

SMALL = {
    "tspnet": {
        **SMALL_TRANSFORMER,
        "data.features": (),  # it reads frames, or three sets of its own windows
        "model.decoder_d_model": 128,
        "model.decoder_heads": 4,
    }
}
_PUBLISHED = {
    "translate.epochs": 200,
    "translate.clips_per_batch": 24,
    "translate.frame_budget": 1872,
    "translate.accumulate": 2,  # 32 clips; 4,096 rows in the public code: 30 clips of frames, 68 of windows
    "translate.label_smoothing": 0.1,
    "translate.optim.name": "adamw",  # fairseq's `adam` separates decay from the gradient
    "translate.optim.learning_rate": 1e-4,
    "translate.optim.b2": 0.999,
    "translate.optim.weight_decay": 1e-4,
    "translate.optim.clip_norm": 25.0,  # fairseq's default
    "translate.optim.schedule": "plateau",
    "translate.optim.factor": 0.5,
    "translate.optim.patience": 8,
    "decode.beams": 10,
    "decode.length_penalty": 1.0,
}
PUBLISHED = {"tspnet": _PUBLISHED}
