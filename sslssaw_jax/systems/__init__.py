"""The systems of Tables 1 and 2, one file each; this table is the only place that lists them."""

import ml_collections

from sslssaw_jax.config.checks import require
from sslssaw_jax.config.experiment import Config, from_config_dict, to_config_dict
from sslssaw_jax.stages.stage import System
from sslssaw_jax.systems import (
    csgcr,
    gaslt,
    gbt,
    mmtlb,
    nslt,
    question_only,
    signbt,
    slrt,
    ssl_ssaw,
    stmc_t,
    ts_slt,
    tspnet,
)

SYSTEMS: dict[str, System] = {
    "ssl_ssaw": ssl_ssaw.SYSTEM,
    "slrt": slrt.SYSTEM,
    "gaslt": gaslt.SYSTEM,
    "nslt": nslt.SYSTEM,
    "mmtlb": mmtlb.SYSTEM,
    "ts_slt": ts_slt.SYSTEM,
    "gbt": gbt.SYSTEM,
    "tspnet": tspnet.SYSTEM,
    "signbt": signbt.SYSTEM,
    "stmc_t": stmc_t.SYSTEM,
    "csgcr": csgcr.SYSTEM,
    "question_only": question_only.SYSTEM,
}


def default_config(system: str = "ssl_ssaw") -> ml_collections.ConfigDict:
    """Return a system's full-size defaults, for config files to change."""
    return to_config_dict(Config(system=system, model=SYSTEMS[system].config()))


def read_config(tree: ml_collections.ConfigDict) -> Config:
    """Return the checked configuration.

    Raises:
        ConfigError: An unknown key, a wrong type or a value that is not allowed.
    """
    config = from_config_dict(tree, {name: system.config for name, system in SYSTEMS.items()})
    system, features = SYSTEMS[config.system], config.data.features
    require(
        config.stage in system.stages,
        f"config.stage is {config.stage!r}; the system {config.system!r} has {', '.join(system.stages)}",
    )
    require(
        "recognize" in system.stages or not config.recognize.epochs,
        f"config.recognize.epochs is {config.recognize.epochs}; the system {config.system!r} has no "
        "recogniser: set it to 0",
    )
    require(
        not features or "features" in system.reads,
        f"config.data.features is {features}; the system {config.system!r} reads "
        f"{' and '.join(system.reads) or 'no video'}: clear it with --config.data.features=, or "
        "choose another system",
    )
    require(
        len(features) in (0, system.feature_sets),
        f"config.data.features is {features}; the number of sets that the system "
        f"{config.system!r} reads is {system.feature_sets}: name as many",
    )
    require(
        bool(features) or system.reads != ("features",),
        f"config.data.features is empty; the system {config.system!r} reads features: name prepared sets",
    )
    reads_keypoints, keypoints = "keypoints" in system.reads, config.data.keypoints
    require(
        keypoints is None or reads_keypoints or system.learns_keypoints,
        f"config.data.keypoints is {keypoints!r}; the system {config.system!r} reads no keypoints: clear it",
    )
    require(
        bool(keypoints or features) or not reads_keypoints,
        f"config.data.keypoints is None; the system {config.system!r} reads keypoints in addition to "
        "frames: name a prepared set",
    )
    system.check(config)
    return config
