"""A gloss recogniser: the CNN and temporal convolutions that every row uses, with a CTC head.

In `--config=configs/recognize.py:BASE`, BASE is demo, phoenix or csl_daily. `BASE/translate` is SSL-SSAW's
translation, started from the recogniser's video part instead of stage 1.
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


def get_config(variant: str = "demo") -> ConfigDict:
    """Return the recogniser of a dataset, or a translation after it."""
    base, _, then = variant.partition("/")
    if base not in BASES or then not in ("", "translate"):
        raise ConfigError(
            f"recognize.py:{variant} is unknown; use BASE or BASE/translate, with BASE one of "
            f"{', '.join(BASES)}"
        )
    config = BASES[base]()
    config.name, config.stage, config.init_from = f"{base}_recognize", "recognize", None
    recipe = config.recognize = config.translate.copy_and_resolve_references()
    for key in set(config.translate) - set(config.warm_start):
        del recipe[key]
    recipe.eval_every = 1
    recipe.optim.name, recipe.optim.learning_rate = "adamw", 1e-3
    if base == "demo":
        recipe.epochs, recipe.clips_per_batch, recipe.frame_budget = 6, 8, 360
        config.model.gloss_head.d_model, config.model.gloss_head.ffn_dim = 128, 512
    else:
        recipe.epochs = 40  # as in MMTLB
    if then:
        config.init_from, config.name, config.stage = config.name, f"{base}_after_recognize", then
        config.pretrain.epochs = 0
    return config
