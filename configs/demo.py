"""The embedded demo: `avatar_qa`, a warm start of the CNN and both stages."""

from ml_collections import ConfigDict

from configs.common import small_model
from sslssaw_jax.systems import default_config


def get_config() -> ConfigDict:
    """Return the demo."""
    config = default_config()
    config.name = "demo"
    config.init_from = "demo_stage1"
    config.evaluation.question_only_run = "demo_question"
    small_model(config)

    # with so few steps, dropout costs 20 BLEU-4 on dev
    config.model.mbart.dropout = config.model.fusion.dropout = 0.0
    config.data.image_size = 48
    config.data.max_frames = 60
    config.data.max_question_tokens = 24  # the longest question has 22
    config.data.max_target_tokens = 16
    config.data.augment.contrast = 0.25
    config.data.augment.brightness = 0.05
    config.data.num_threads = 2
    config.decode.max_new_tokens = 24

    for stage in (config.warm_start, config.pretrain, config.translate):
        stage.clips_per_batch = 16
        stage.frame_budget = 640
        stage.optim.name = "adamw"
        stage.optim.learning_rate = 2e-3
        stage.optim.final_learning_rate = 1e-5
        stage.optim.warmup_steps = 40
        stage.optim.b2 = 0.999
        stage.optim.weight_decay = 1e-4
        stage.optim.clip_norm = 1.0
    config.warm_start.epochs = 5
    config.warm_start.frame_budget = 112  # clips of 7 frames
    config.warm_start.optim.learning_rate = 3e-3
    config.warm_start.optim.clip_norm = 0.0
    config.pretrain.epochs = 1
    config.translate.epochs = 5
    config.translate.eval_every = 3
    config.translate.label_smoothing = 0.1
    config.logging.every_steps = 10
    return config
