"""The questions of PHOENIX-2014T-QA alone, from scratch, on a CPU.

`configs/question_only.py:qsl` is the same study on QSL-QA, without the denoising pairs, which are made
from words between spaces: Chinese has none.

It is not the paper's row, which is `configs/ablations.py:phoenix/question`: a copy gate and denoising pairs
show how far the questions alone can go. 99 % of the texts fit the lengths. The number of epochs was fixed
before the first run (for QSL-QA, to take the same number of steps); dev is scored at the end, and chose
only the five beams.
"""

from ml_collections import ConfigDict

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.systems import default_config

VARIANTS = ("", "qsl")


def get_config(variant: str = "") -> ConfigDict:
    """Return the study; the variant is empty or `qsl`."""
    if variant not in VARIANTS:
        raise ConfigError(f"the variant :{variant} is unknown; the only one is :qsl")
    config = default_config("question_only")
    config.name = "question_only"
    config.data.dataset = "phoenix2014t_qa"
    config.data.max_question_tokens = 32
    config.data.max_target_tokens = 34
    config.data.length_steps = 4  # 31 % padding instead of 57
    config.data.num_threads = 1
    config.model.d_model = 192
    config.model.ffn_dim = 768
    config.model.max_positions = 256
    config.model.dropout = 0.2
    config.decode.beams = 5
    config.decode.max_new_tokens = 60
    stage = config.translate
    stage.epochs = 28
    stage.clips_per_batch = 48
    stage.frame_budget = 1
    stage.eval_every = 28
    stage.ema_decay = 0.998  # over the last 500 steps
    stage.label_smoothing = 0.1
    stage.optim.name = "adamw"
    stage.optim.learning_rate = 1.5e-3
    stage.optim.final_learning_rate = 3e-5
    stage.optim.warmup_steps = 200
    stage.optim.weight_decay = 0.01
    stage.optim.clip_norm = 1.0
    if variant == "qsl":
        config.name = "question_only_qsl"
        config.data.dataset = "qsl_qa"
        config.model.denoise_targets = 0.0
        stage.epochs = stage.eval_every = 11
    return config
