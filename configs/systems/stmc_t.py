"""STMC-T; its recipe is a reconstruction."""

from configs.systems.shared import small_stage

_SMALL = {
    "data.features": (),  # it reads frames
    "data.keypoints": "avatar",
    "model.cnn.kind": "vgg",
    "model.cnn.vgg.widths": (8, 8, 16, 32, 64),
    "model.cues.width": 32,
    "model.cues.joint_width": 128,
    "model.cues.hand_side": 6,  # of a map of side 12
    "model.cues.face_side": 4,
    "model.cues.dropout": 0.1,
    "model.joint_head.d_model": 128,
    "model.joint_head.layers": 1,
    "model.part_head.d_model": 32,
    "model.part_head.layers": 1,
    "model.embedding": 128,
    "model.decoder_units": 128,
    "model.dropout": 0.1,
    "recognize.epochs": 10,
    **small_stage("recognize", 8, 360),
    "translate.normalize": "clips",
    "translate.optim.groups": ("video=0",),
}
_ADAM = {"name": "adam", "learning_rate": 5e-5, "b2": 0.999, "weight_decay": 1e-4}
_PUBLISHED = {
    "data.keypoints": "keypoints",
    "model.cnn.kind": "vgg",
    "model.cnn.weights": "./pretrained/vgg11-8a719046.pth",  # torchvision's
    **{
        f"{stage}.{key}": value
        for stage in ("recognize", "translate")
        for key, value in {
            "epochs": 30,
            "clips_per_batch": 2,
            "frame_budget": 600,
            **{f"optim.{key}": value for key, value in _ADAM.items()},
        }.items()
    },
    "translate.normalize": "clips",
    "translate.label_smoothing": 0.0,
    "translate.optim.groups": ("video=0",),
}
SMALL = {"stmc_t": _SMALL}
PUBLISHED = {"stmc_t": _PUBLISHED}
