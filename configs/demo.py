"""The embedded demo: `avatar_qa`, both stages and a warm start of the CNN, minutes on two CPU cores."""

import ml_collections

from sslssaw_jax.config.experiment import default


def get_config() -> ml_collections.ConfigDict:
    config = default()
    config.name = "demo"
    config.init_from = "demo_stage1"
    config.question_only = "demo_question"
    small_model(config)

    config.data.image_size = 48
    config.data.max_frames = 60
    config.data.max_question_tokens = 32
    config.data.max_target_tokens = 24
    config.data.augment.contrast = 0.25
    config.data.augment.brightness = 0.05
    config.data.num_threads = 2
    config.decode.max_new_tokens = 24

    for stage in (config.warm_start, config.pretrain, config.translate):
        stage.clips_per_batch = 16
        stage.frame_budget = 640
        stage.optim.name = "adamw"
        stage.optim.learning_rate = 1e-3
        stage.optim.final_learning_rate = 1e-5
        stage.optim.warmup_steps = 40
        stage.optim.b2 = 0.999
        stage.optim.weight_decay = 1e-4
        stage.optim.clip_norm = 1.0
    config.warm_start.epochs = 5
    config.warm_start.frame_budget = 112  # clips of 7 frames
    config.warm_start.optim.learning_rate = 3e-3
    config.warm_start.optim.clip_norm = 0.0
    config.pretrain.epochs = 2
    config.translate.epochs = 6
    config.translate.eval_every = 2
    config.translate.label_smoothing = 0.1
    config.log_every = 10
    return config


def small_model(config: ml_collections.ConfigDict) -> None:
    """1.5 million parameters. At 48 pixels the last 3x3 map is kept: its mean forgets where the hands are."""
    config.data.crop_fraction = 1.0
    config.model.resnet.depths = (1, 1, 1)
    config.model.resnet.width = 16
    config.model.resnet.stem = "conv7_stride4"
    config.model.resnet.head = "flatten"
    config.model.resnet.head_features = 128
    config.model.shufflenet.depths = (2, 4, 2)
    config.model.shufflenet.width = 48
    config.model.shufflenet.features = 128
    config.model.mbart.d_model = 128
    config.model.mbart.ffn_dim = 512
    config.model.mbart.text_layers = 2
    config.model.mbart.text_heads = 4
    config.model.mbart.video_layers = 2
    config.model.mbart.decoder_layers = 2
    config.model.mbart.heads = 4
    config.model.mbart.max_positions = 256
    config.model.mbert.d_model = 64
    config.model.mbert.ffn_dim = 256
    config.model.mbert.num_layers = 2
    config.model.mbert.heads = 4
    config.model.mbert.max_positions = 128
    config.model.fusion.heads = 4
    config.model.fusion.ffn_dim = 512
