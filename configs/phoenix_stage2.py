"""SSL-SSAW on PHOENIX-2014T-QA (Table 1): stage 2, with stage 1 trained first where there is none.

It starts from pretrained mBART, trimmed to the dataset (README, "Pretrained weights").
`configs/phoenix_stage2.py:toy` is the same experiment from scratch, with a model small enough for a CPU.
"""

import ml_collections

from configs.demo import small_model
from sslssaw_jax.config.experiment import default

PRETRAINED = "./pretrained/mbart_trimmed"  # as the README's trim command leaves it
VARIANTS = ("", "toy")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"the variant :{variant} is unknown; there is :toy")
    config = default()
    config.name = "phoenix_stage2"
    config.init_from = "phoenix_stage1"
    config.question_only = "phoenix_question"
    config.data.dataset = "phoenix2014t_qa"
    config.data.language = "de_DE"
    config.model.cnn_weights = "microsoft/resnet-18"
    config.data.tokenizer = PRETRAINED
    config.model.mbart.weights = PRETRAINED
    config.model.mbert.weights = "google-bert/bert-base-multilingual-cased"  # with model.text = "mbert"
    config.model.mbart.heads = 16  # as many as the pretrained layers have; the parent project's 8 merge them
    config.data.augment.rotation = 15.0
    config.data.augment.crop = True
    config.data.augment.brightness = 0.1
    config.data.augment.contrast = 0.1

    config.pretrain.epochs = 80
    # on average 16 and 8 clips a step on any of 1 to 8 devices, and 1 % of the frames for nothing: see
    # `benchmarks/results/answered.md`
    config.pretrain.clips_per_batch = 24
    config.pretrain.frame_budget = 1872
    config.translate.epochs = 200
    config.translate.clips_per_batch = 16
    config.translate.frame_budget = 944
    config.translate.label_smoothing = 0.2
    if variant == "toy":
        make_toy(config)
    return config


def make_toy(config: ml_collections.ConfigDict) -> None:
    """Changes sizes and epochs, and starts from scratch; what a run does stays the same."""
    config.name += "_toy"
    config.init_from += "_toy"
    config.question_only = "phoenix_toy_question"
    small_model(config)
    config.model.cnn_weights = ""
    config.data.tokenizer = config.model.mbart.weights = config.model.mbert.weights = ""
    config.data.image_size = 48
    config.data.max_frames = 64
    config.data.num_threads = 2
    config.decode.beams = 2
    config.decode.max_new_tokens = 32
    for stage in (config.pretrain, config.translate):
        stage.epochs = 2
        stage.clips_per_batch = 8
        stage.frame_budget = 480
        stage.optim.name = "adamw"
        stage.optim.learning_rate = 1e-3
        stage.optim.clip_norm = 1.0
    config.log_every = 1
