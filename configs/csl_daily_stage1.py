"""Stage 1 on CSL-Daily-QA: video-sentence contrast and masked characters (Sec. 3.2); `:toy` for a CPU."""

import ml_collections

from configs import csl_daily_stage2


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = csl_daily_stage2.get_config(variant)
    config.name = config.init_from
    config.stage = "pretrain"
    return config
