"""The configuration of an experiment as frozen dataclasses; the only reader of `ConfigDict`.

A config file starts from `systems.default_config()`, changes what it needs and returns the `ConfigDict`;
`from_config_dict` turns it into a `Config`. An unknown key or a value that is not allowed is a `ConfigError`.
"""

import dataclasses
import difflib
import itertools
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_collections
from ml_collections.config_dict import placeholder

from sslssaw_jax.config.checks import (
    ConfigError,
    Range,
    check_range,
    group,
    non_negative,
    positive,
    require,
    setting,
)
from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.stages import PretrainConfig, SentenceConfig, StageConfig, TranslateConfig
from sslssaw_jax.workdir import user_path

SEED = Range(0, 2**63, True, False, "lie in [0, 2**63)")  # as in JAX


@dataclass(frozen=True)
class ComputeConfig:
    """How the same model is computed."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on GPUs from capability 8.0 on
    remat: bool = setting(False, free=True)  # recompute each block in training instead of keeping it


@dataclass(frozen=True)
class DecodeConfig:
    """Beam search; one beam is greedy."""

    beams: int = setting(4, Range(1, 1000, True, True, "lie in [1, 1000]"))
    max_new_tokens: int = positive(150)
    length_penalty: float = setting(1.0, Range(-math.inf, math.inf, False, False, "be a finite number"))
    # a score is divided by length ** length_penalty; gnmt: by ((5 + length) / 6) ** length_penalty
    length_norm: Literal["power", "gnmt"] = "power"


@dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis; -1 takes all that are left."""

    data: int = -1
    fsdp: int = 1


@dataclass(frozen=True)
class CheckpointConfig:
    """When a state is saved and which saved states are kept."""

    every_steps: int = positive(1000)  # in addition to the end of each evaluated epoch
    keep_latest: int = positive(2)
    keep_best: int = positive(1)


@dataclass(frozen=True)
class EvaluationConfig:
    """Which runs translate and what the scores are compared with.

    Runs are named by their workdirs, relative to the parent of this run's workdir.
    """

    # runs that translate together, by the mean of their probabilities
    ensemble: tuple[str, ...] = setting((), scored=True)
    question_only_run: str | None = setting(None)  # a run without video whose scores the report compares
    # translate test also with shuffled questions, and without questions
    swap_questions: bool = setting(True, scored=True)
    num_heatmaps: int = non_negative(6)  # test clips drawn: the worst, the best, the second worst, and so on


@dataclass(frozen=True)
class LoggingConfig:
    """What is logged, and how often."""

    every_steps: int = positive(20)
    peak_tflops: float = non_negative(0.0)  # of one device, for the MFU; 0: looked up by the device's name
    profile: str | None = setting(None)  # "START:STOP": a trace of those steps, for TensorBoard

    def __post_init__(self) -> None:
        steps = re.fullmatch(r"(\d+):(\d+)", self.profile or "0:0")
        require(
            steps is not None and int(steps[1]) <= int(steps[2]),
            f"profile is {self.profile!r}; it must be START:STOP, two steps in order",
        )

    @property
    def profiled_steps(self) -> range:
        """Return the steps that are traced, counted from 1."""
        if self.profile is None:
            return range(0)
        start, stop = map(int, self.profile.split(":"))
        return range(start, stop + 1)


@dataclass(frozen=True)
class Config:
    """One experiment: the data, the system, and the stages that train it.

    `warm_start` trains the CNN on isolated signs (a small substitute for ImageNet weights), `recognize` the
    video part to name glosses, `gloss2text` a language model to write a sentence from glosses, `text2gloss`
    glosses from a sentence, `pretrain` is stage 1, `translate` stage 2. A stage without epochs is left out.
    """

    name: str = setting("unnamed", free=True)
    system: str = "ssl_ssaw"  # a key of `systems.SYSTEMS`
    # the last stage to train
    stage: Literal["recognize", "gloss2text", "text2gloss", "pretrain", "translate"] = setting(
        "translate", free=True
    )
    seed: int = setting(0, SEED)
    # workdir of stage 1 or the recogniser, relative to the parent of this workdir; or a checkpoint.pth of
    # GFSLT-VLP, of either stage; None: from pretrained weights or from scratch
    init_from: str | None = setting(None, stages=("translate",))
    data: DataConfig = group(DataConfig)
    model: Any = None  # the system's own group
    warm_start: StageConfig = group(StageConfig, stages=("warm_start",))
    recognize: StageConfig = group(StageConfig, stages=("recognize",))
    gloss2text: SentenceConfig = group(SentenceConfig, stages=("gloss2text",))
    text2gloss: SentenceConfig = group(SentenceConfig, stages=("text2gloss",))
    pretrain: PretrainConfig = group(PretrainConfig, stages=("pretrain",))
    translate: TranslateConfig = group(TranslateConfig, stages=("translate",))
    compute: ComputeConfig = group(ComputeConfig)
    decode: DecodeConfig = group(DecodeConfig, free=True, scored=True)
    evaluation: EvaluationConfig = group(EvaluationConfig, free=True)
    mesh: MeshConfig = group(MeshConfig, free=True)
    checkpoint: CheckpointConfig = group(CheckpointConfig, free=True)
    logging: LoggingConfig = group(LoggingConfig, free=True)
    # receives everything that TensorBoard gets; the packages are optional
    tracker: Literal["none", "trackio", "wandb"] = setting("none", free=True)
    # a folder of compiled programs, shared by all processes, so that a restart compiles nothing; auto: in
    # ~/.cache, or no cache with several processes; None: no cache
    compilation_cache: str | None = setting("auto", free=True)


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """Return a `ConfigDict` that a config file or a flag may change."""
    tree = ml_collections.ConfigDict()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        elif value is None:
            value = placeholder(str)  # a plain None would accept no text from a flag
        tree[field.name] = value
    return tree


def from_config_dict(tree: ml_collections.ConfigDict, model_groups: Mapping[str, type]) -> Config:
    """Return the checked `Config`.

    Args:
        tree: The configuration.
        model_groups: The class of `config.model` of each system.

    Raises:
        ConfigError: An unknown key, a wrong type or a value that is not allowed.
    """
    values = tree.to_dict()
    system = values.get("system")
    require(
        system in model_groups, f"config.system is {system!r}; allowed: {', '.join(sorted(model_groups))}"
    )
    return _build(Config, values, "config", {"model": model_groups[system]})


def to_dict(config: Any) -> dict[str, Any]:
    """Return plain dictionaries and lists, as JSON stores them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(saved: dict[str, Any], current: dict[str, Any], path: str = "config") -> list[str]:
    """Return each key that differs, as `key: saved then, current now`."""
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        old, new = saved.get(key), current.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{path}.{key}")
        elif old != new:
            lines.append(f"{path}.{key}: {old!r} then, {new!r} now")
    return lines


def run_differences(
    config: Config, saved: dict[str, Any], current: dict[str, Any], *stages: str
) -> list[str]:
    """Return the differences of two runs in what determines the stages' parameters.

    Args:
        config: The current configuration, whose fields say what may change.
        saved: The notes kept with one run, `{"config": to_dict(...), "tokenizer": ..., "glosses": ...}`.
        current: The notes of the other run.
        *stages: The names of a stage and of those before it.
    """

    def decisive(notes: dict[str, Any]) -> dict[str, Any]:
        others = {key: notes.get(key) for key in ("stage", "tokenizer", "glosses")}
        return _decisive(config, notes["config"], stages) | others

    return differences(decisive(saved), decisive(current))


def scored_differences(
    saved: dict[str, Any], current: dict[str, Any], config: Any, *, all_scored: bool = False
) -> dict[str, Any]:
    """Return the changed free settings that change what a trained model translates.

    Args:
        saved: The configuration of the training, as `to_dict` returns it.
        current: The configuration of the evaluation.
        config: The current configuration or a group of it, whose fields say what changes translations.
        all_scored: Whether all settings of the group change translations.

    Returns:
        The current values by dotted key, without the leading `config.`.
    """
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, scored, value = field.name, field.metadata.get("scored"), getattr(config, field.name)
        was = _saved_value(field, saved)
        if dataclasses.is_dataclass(value):
            below = scored_differences(was, current[name], value, all_scored=bool(scored))
            changed |= {f"{name}.{key}": new for key, new in below.items()}
        elif (scored or all_scored) and was != current[name]:
            changed[name] = current[name]
    return changed


def _decisive(group: Any, values: dict[str, Any], stages: Sequence[str]) -> dict[str, Any]:
    """Return the values of a group that determine the parameters of stages."""
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(group):
        of_stages, value = field.metadata.get("stages"), _saved_value(field, values)
        if field.metadata.get("free") or not (of_stages is None or set(stages).intersection(of_stages)):
            continue
        if field.name.endswith("weights"):  # pretrained weights determine the parameters; their path does not
            value = bool(value)
        elif isinstance(value, dict):
            value = _decisive(getattr(group, field.name), value, stages)
        kept[field.name] = value
    return kept


def _saved_value(field: "dataclasses.Field[Any]", saved: Mapping[str, Any]) -> Any:
    """Return a saved setting; settings newer than the configuration have defaults."""
    if field.name in saved:
        return saved[field.name]
    make = field.default_factory
    default = field.default if make is dataclasses.MISSING else dataclasses.asdict(make())
    return json.loads(json.dumps(default))


def _build(cls: type, values: dict[str, Any], path: str, hints: Mapping[str, Any] | None = None) -> Any:
    hints = typing.get_type_hints(cls) | dict(hints or {})
    if unknown := sorted(set(values) - set(hints)):
        near = difflib.get_close_matches(unknown[0], hints, n=1)
        hint = f"did you mean {path}.{near[0]}?" if near else f"known: {', '.join(hints)}"
        raise ConfigError(f"{path}.{unknown[0]} is unknown; {hint}")
    converted = {}
    for field in dataclasses.fields(cls):
        if field.name in values:
            key = f"{path}.{field.name}"
            converted[field.name] = _convert(hints[field.name], values[field.name], key)
            check_range(field, converted[field.name], key)
    try:
        return cls(**converted)
    except ConfigError as error:  # a group knows its keys, not its own path
        raise ConfigError(f"{path}.{error}") from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        require(isinstance(value, dict), f"{path} is {value!r}; it must be a group of keys")
        return _build(typing.cast(type, hint), value, path)
    if typing.get_origin(hint) is Literal:
        allowed = typing.get_args(hint)
        require(value in allowed, f"{path} is {value!r}; allowed: {', '.join(map(str, allowed))}")
        return value
    if isinstance(hint, types.UnionType):  # str | None; =None and a flag without text clear the setting
        return None if value in (None, "None", "") else _convert(typing.get_args(hint)[0], value, path)
    if isinstance(hint, types.GenericAlias):  # tuple[int, ...]
        require(isinstance(value, (tuple, list)), f"{path} is {value!r}; it must be a tuple")
        # ml_collections leaves a flag's text without quotes whole: "" or "seed0,seed1"
        parts = [re.split(r"\s*,\s*", item.strip()) if isinstance(item, str) else [item] for item in value]
        items = [item for item in itertools.chain.from_iterable(parts) if item not in (None, "None", "")]
        return tuple(_convert(typing.get_args(hint)[0], item, path) for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.startswith("~"):  # the shell does not expand ~ after =
        return str(user_path(value))
    require(type(value) is hint, f"{path} is {value!r}; it must be of type {hint.__name__}")
    return value
