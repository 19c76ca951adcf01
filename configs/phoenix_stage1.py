"""Stage 1 on PHOENIX-2014T-QA (Sec. 3.2); `:toy` for a CPU."""

from ml_collections import ConfigDict

from configs import phoenix_stage2


def get_config(variant: str = "") -> ConfigDict:
    """Return stage 1; the variant is empty or `toy`."""
    config = phoenix_stage2.get_config(variant)
    config.name = config.init_from
    config.stage = "pretrain"
    return config
