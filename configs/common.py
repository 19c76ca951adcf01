"""Sizes that several configurations share."""

from ml_collections import ConfigDict

from sslssaw_jax.config.experiment import to_config_dict
from sslssaw_jax.systems import SYSTEMS


def small_cnn(config: ConfigDict) -> None:
    """Shrink the CNN to frames of 48 pixels."""
    config.data.crop_fraction = 1.0
    config.model.cnn.resnet.depths = (1, 1, 1)
    config.model.cnn.resnet.width = 16
    config.model.cnn.resnet.stem = "conv7_stride4"
    config.model.cnn.resnet.head = "flatten"  # the mean of the last 3x3 map forgets where the hands are
    config.model.cnn.resnet.head_features = 128
    config.model.cnn.shufflenet.depths = (2, 4, 2)
    config.model.cnn.shufflenet.width = 48
    config.model.cnn.shufflenet.features = 128


def small_model(config: ConfigDict) -> None:
    """Shrink SSL-SSAW to 1.6 million parameters."""
    small_cnn(config)
    config.model.mbart.d_model = 128
    config.model.mbart.ffn_dim = 512
    config.model.mbart.text_layers = 2
    config.model.mbart.text_heads = 4
    config.model.mbart.video_layers = 2
    config.model.mbart.video_heads = 4
    config.model.mbart.decoder_layers = 2
    config.model.mbart.decoder_heads = 4
    config.model.mbart.max_positions = 256
    config.model.mbert.d_model = 64
    config.model.mbert.ffn_dim = 256
    config.model.mbert.num_layers = 2
    config.model.mbert.heads = 4
    config.model.mbert.max_positions = 128
    config.model.fusion.heads = 4
    config.model.fusion.ffn_dim = 512


def toy_training(config: ConfigDict) -> None:
    """Shrink sizes and epochs for minutes on a CPU, from scratch."""
    small_model(config)
    config.model.cnn.weights = config.model.mbart.weights = config.model.mbert.weights = None
    config.data.image_size = 48
    config.data.max_frames = 64
    config.data.num_threads = 2
    config.decode.beams = 2
    config.decode.max_new_tokens = 64
    for stage in (config.pretrain, config.translate):
        stage.epochs = 2
        stage.clips_per_batch = 8
        stage.frame_budget = 480
        stage.optim.name = "adamw"
        stage.optim.learning_rate = 1e-3
        stage.optim.clip_norm = 1.0
    config.logging.every_steps = 1


def use_system(config: ConfigDict, name: str) -> None:
    """Replace the system with another one with the same CNN, from scratch."""
    cnn = config.model.cnn
    config.system, config.init_from = name, None
    config.model = to_config_dict(SYSTEMS[name].config())
    if "cnn" in config.model:
        config.model.cnn = cnn
