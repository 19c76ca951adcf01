"""A recogniser of glosses: the CNN and temporal convolutions of every row, with a head by CTC.

`--config=configs/recognize.py:BASE` has BASE demo, phoenix or csl_daily. A translation goes on from its
video part with `--config.recognize.epochs` above 0 and `--config.init_from` naming the recogniser's workdir.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import csl_daily_stage2, demo, phoenix_stage2
from sslssaw_jax.config.checks import ConfigError

BASES: dict[str, Callable[[], ConfigDict]] = {
    "demo": demo.get_config,
    "phoenix": phoenix_stage2.get_config,
    "csl_daily": csl_daily_stage2.get_config,
}


def get_config(base: str = "demo") -> ConfigDict:
    """Return the recogniser of a dataset."""
    if base not in BASES:
        raise ConfigError(f"recognize.py:{base} is unknown; there is {', '.join(BASES)}")
    config = BASES[base]()
    config.name, config.stage, config.init_from = f"{base}_recognize", "recognize", None
    config.recognize = config.translate.copy_and_resolve_references()
    for key in set(config.translate) - set(config.warm_start):
        del config.recognize[key]
    config.recognize.eval_every = 1
    config.recognize.optim.name = "adamw"
    config.recognize.optim.learning_rate = 1e-3
    if base == "demo":
        config.recognize.clips_per_batch, config.recognize.frame_budget = 8, 360
        config.model.gloss_head.d_model, config.model.gloss_head.ffn_dim = 128, 512
    return config
