"""The questions of PHOENIX-2014T-QA alone, from scratch, on a CPU.

It is not the paper's row, which is `configs/ablations.py:phoenix/question`: a copy gate and denoising pairs
show how far the questions alone lead. 99 % of the texts fit the lengths. The number of epochs was fixed
before the first run; dev is scored at the end, and chooses nothing.
"""

from ml_collections import ConfigDict

from sslssaw_jax.systems import default_config


def get_config() -> ConfigDict:
    """Return the study of the questions alone."""
    config = default_config("question_only")
    config.name = "question_only"
    config.data.dataset = "phoenix2014t_qa"
    config.data.max_question_tokens = 32
    config.data.max_target_tokens = 34
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
    stage.ema_decay = 0.998  # of the last 500 steps
    stage.label_smoothing = 0.1
    stage.optim.name = "adamw"
    stage.optim.learning_rate = 1.5e-3
    stage.optim.final_learning_rate = 3e-5
    stage.optim.warmup_steps = 200
    stage.optim.weight_decay = 0.01
    stage.optim.clip_norm = 1.0
    return config
