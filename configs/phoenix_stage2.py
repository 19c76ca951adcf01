"""SSL-SSAW on PHOENIX-2014T-QA (Table 1): stage 2, after stage 1 if missing.

It starts from pretrained mBART, trimmed to the dataset (`docs/weights.md`).
`configs/phoenix_stage2.py:toy` is the same experiment from scratch, with a model small enough for a CPU.
"""

from ml_collections import ConfigDict

from configs.common import toy_training
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.systems import default_config

PRETRAINED = "./pretrained/mbart_trimmed"  # written by the trim command of docs/corpora.md
VARIANTS = ("", "toy")


def get_config(variant: str = "") -> ConfigDict:
    """Return stage 2; the variant is empty or `toy`."""
    if variant not in VARIANTS:
        raise ConfigError(f"the variant :{variant} is unknown; the only one is :toy")
    config = default_config()
    config.name = "phoenix_stage2"
    config.init_from = "phoenix_stage1"
    config.evaluation.question_only_run = "phoenix_question"
    config.data.dataset = "phoenix2014t_qa"
    config.model.cnn.weights = "microsoft/resnet-18"
    config.model.mbart.weights = PRETRAINED
    config.model.mbert.weights = "google-bert/bert-base-multilingual-cased"  # if text_encoder = "mbert"
    # as many heads as the pretrained layers have; the parent project's 8 merge them
    config.model.mbart.video_heads = config.model.mbart.decoder_heads = 16
    config.data.num_threads = 16  # an H200 trains on 20,000 frames per second; these decode 22,700 or more
    config.data.augment.rotation = 15.0
    config.data.augment.crop = True
    config.data.augment.brightness = 0.1
    config.data.augment.contrast = 0.1

    # the optimizer, decay and smoothing of the parent project; `sgd` there is timm's
    config.pretrain.optim.name = config.translate.optim.name = "nesterov"
    config.pretrain.epochs = 80
    # on average 16 and 8 clips a step on any of 1 to 8 devices, with 1 % of the frames wasted: see
    # `benchmarks/results/answered.md`
    config.pretrain.clips_per_batch = 24
    config.pretrain.frame_budget = 1872
    config.pretrain.label_smoothing = 0.2  # of the restored words
    config.pretrain.optim.weight_decay = 0.0  # weight decay only in stage 2
    config.translate.epochs = 200
    config.translate.clips_per_batch = 16
    config.translate.frame_budget = 944
    config.translate.label_smoothing = 0.2
    if variant == "toy":
        config.name, config.init_from = "phoenix_stage2_toy", "phoenix_stage1_toy"
        config.evaluation.question_only_run = "phoenix_toy_question"
        toy_training(config)
    return config
