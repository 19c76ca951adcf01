"""SSL-SSAW on CSL-Daily-QA (Table 2): stage 2, after stage 1 if missing.

The recipe is PHOENIX's. `configs/csl_daily_stage2.py:toy` is the same experiment from scratch, with a model
small enough for a CPU.
"""

from ml_collections import ConfigDict

from configs import phoenix_stage2

PRETRAINED = "./pretrained/mbart_trimmed_csl"  # written by the trim command of docs/corpora.md


def get_config(variant: str = "") -> ConfigDict:
    """Return stage 2; the variant is empty or `toy`."""
    config = phoenix_stage2.get_config(variant)
    config.name = config.name.replace("phoenix", "csl_daily")
    config.init_from = config.init_from.replace("phoenix", "csl_daily")
    question_only_run = config.evaluation.question_only_run
    config.evaluation.question_only_run = question_only_run.replace("phoenix", "csl_daily")
    config.data.dataset = "csl_daily_qa"
    if config.model.mbart.weights:
        config.model.mbart.weights = PRETRAINED
    return config
