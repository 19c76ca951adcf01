"""PHOENIX-2014T-QA's real texts with rendered signers, at a size for a CPU: `docs/rehearsal.md`.

`configs/rehearsal.py:recognize` trains the CNN to name glosses in frames of 56 pixels, `:recognize_poor` the
same CNN for one epoch. The rows of `configs/ablations.py:rehearsal/ROW` and `rehearsal_poor/ROW` read the
features of these CNNs, extracted as the sets `good` and `poor`, in place of frames.
"""

from ml_collections import ConfigDict

from configs.common import small_model
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.systems import default_config

VARIANTS = ("", "poor", "recognize", "recognize_poor")


def get_config(variant: str = "") -> ConfigDict:
    """Return SSL-SSAW on a feature set, or the recogniser that makes one."""
    if variant not in VARIANTS:
        raise ConfigError(f"the variant :{variant} is unknown; use one of {', '.join(VARIANTS[1:])}")
    config = default_config()
    small_model(config)
    config.name = f"rehearsal_{variant}" if variant else "rehearsal"
    config.data.dataset = "phoenix2014t_qa"
    config.data.image_size = 56
    config.data.frame_stride = 4
    config.data.max_frames = 64  # 1 % of the clips have more frames, of which training draws 64
    config.data.max_question_tokens = 32  # 99 % of the texts fit
    config.data.max_target_tokens = 34
    config.data.num_threads = 1
    config.model.cnn.resnet.width = 24
    config.model.cnn.resnet.head_features = 256
    config.model.mbart.d_model = 256
    config.model.mbart.dropout = 0.2
    config.model.fusion.dropout = 0.2
    config.model.gloss_head.d_model, config.model.gloss_head.ffn_dim = 256, 512
    config.decode.max_new_tokens = 60
    for stage in (config.recognize, config.pretrain, config.translate):
        stage.clips_per_batch = 64
        stage.optim.name = "adamw"
        stage.optim.learning_rate = 1.5e-3
        stage.optim.final_learning_rate = 2e-5
        stage.optim.warmup_steps = 200
        stage.optim.weight_decay = 0.01
        stage.optim.clip_norm = 1.0
    if "recognize" in variant:
        _recognize(config, poor=variant.endswith("poor"))
    else:
        _translate(config, "rehearsal_poor" if variant else "rehearsal")
    return config


def _recognize(config: ConfigDict, *, poor: bool) -> None:
    config.stage = "recognize"
    config.data.augment.contrast = 0.25
    config.data.augment.brightness = 0.05
    config.data.augment.translation = 0.05
    config.recognize.optim.learning_rate = 1e-3
    config.recognize.clips_per_batch = 24
    config.recognize.frame_budget = 640
    config.recognize.epochs = 8
    config.recognize.eval_every = 4
    if poor:  # about the state of the good recogniser after its first epoch
        config.recognize.epochs = 1
        config.recognize.optim.schedule = "constant"


def _translate(config: ConfigDict, base: str) -> None:
    config.init_from = f"{base}_stage1"
    config.evaluation.question_only_run = "rehearsal_question"
    config.data.length_steps = 4
    config.data.features = ("poor" if base.endswith("poor") else "good",)
    for stage in (config.pretrain, config.translate):
        stage.frame_budget = 4096  # room for 64 clips of any length: all seeds take the same number of steps
        stage.label_smoothing = 0.1
    config.pretrain.epochs = 6
    config.translate.clips_per_batch = 32  # twice the steps of 64 for the same time
    config.translate.frame_budget = 2048
    config.translate.optim.learning_rate = 1e-3
    config.translate.epochs = 20
    config.translate.eval_every = 4
    config.translate.ema_decay = 0.998  # over the last 500 steps
