"""Stage 1 on PHOENIX-2014T-QA: video-sentence contrast and masked words (Sec. 3.2); `:toy` for a CPU."""

import ml_collections

from configs import phoenix_stage2


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = phoenix_stage2.get_config(variant)
    config.name = config.init_from
    config.stage = "pretrain"
    return config
