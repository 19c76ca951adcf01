"""The whole configuration as frozen dataclasses; the only reader of `ConfigDict`.

A config file starts from `default()`, changes what it wants and returns the `ConfigDict`;
`from_config_dict` turns it into a `Config`. An unknown key or a value that cannot be is a `ConfigError`.
"""

import dataclasses
import difflib
import json
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Any

import ml_collections

from sslssaw_jax.config.checks import ConfigError as ConfigError
from sslssaw_jax.config.checks import one_of, require, require_fraction
from sslssaw_jax.config.model import ModelConfig


@dataclass(frozen=True)
class AugmentConfig:
    """On-device augmentation, drawn once per clip; zeros switch each part off."""

    rotation: float = 0.0  # degrees, uniform in +-
    scale: float = 0.0  # relative, uniform in 1 +-
    translation: float = 0.0  # relative to the image's side, uniform in +-
    crop: bool = False  # the output window lies anywhere in the stored image, not at its centre
    brightness: float = 0.0  # relative to full range, uniform in +-
    contrast: float = 0.0  # relative, uniform in 1 +-, per colour channel
    mirror: bool = False  # off: handedness carries meaning


@dataclass(frozen=True)
class DataConfig:
    """Where the clips come from and what a batch holds."""

    dataset: str = "avatar_qa"
    data_dir: str = "data"
    language: str = "en_XX"
    tokenizer: str = ""  # folder of an mBART tokenizer; "" is the one prepared with the dataset
    train_split: str = "train"
    dev_split: str = "dev"
    test_split: str = "test"
    isolated_split: str = "isolated"  # clips of one sign each, for the warm start
    image_size: int = 224  # side of the square that the CNN sees
    crop_fraction: float = 0.875  # of a stored frame's side, covered by that square
    max_frames: int = 300
    max_question_tokens: int = 64  # with </s> and the language code
    max_target_tokens: int = 64
    denoise_targets: float = 0.0  # share of clips that get a corrupted copy of the target as question
    mask_rate: float = 0.15  # share of a sentence's words masked in stage 1
    num_threads: int = 8
    prefetch: int = 4  # batches held ready
    skip_broken: int = 0  # so many clips with a frame that cannot be read are left out of the training
    cache: bool = False  # read frames from a file of decoded ones, built at first use: H * W * 3 bytes each
    cache_dir: str = ""  # where that file goes; "" is the dataset's own folder
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        for key in ("mask_rate", "denoise_targets"):
            require_fraction(key, getattr(self, key))
        require(0 < self.crop_fraction <= 1, f"crop_fraction is {self.crop_fraction}; it lies in (0, 1]")
        require(
            not (self.cache and self.skip_broken),
            f"cache is True and skip_broken {self.skip_broken}: a cache holds all clips; choose one",
        )
        for key in ("image_size", "max_frames", "num_threads", "prefetch"):
            require(getattr(self, key) > 0, f"{key} is {getattr(self, key)}; it must be positive")
        require(self.skip_broken >= 0, f"skip_broken is {self.skip_broken}; it cannot be negative")
        for key in ("max_question_tokens", "max_target_tokens"):
            require(getattr(self, key) >= 4, f"{key} is {getattr(self, key)}; at least 4 are needed")


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule: linear warm-up, then cosine."""

    name: str = "sgd"  # sgd | adam | adamw
    learning_rate: float = 0.01
    final_learning_rate: float = 1e-8
    warmup_steps: int = 0
    momentum: float = 0.9
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.001
    clip_norm: float = 0.0  # 0: no clipping

    def __post_init__(self) -> None:
        one_of("name", self.name, ("sgd", "adam", "adamw"))
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be positive")


@dataclass(frozen=True)
class StageConfig:
    """What one stage of training takes; batch sizes are those of all devices together.

    A step takes `accumulate` batches one after the other and their gradient as one: of all they hold, were
    they a single batch. But BatchNorm and the contrast of stage 1 know only the clips of one of them.
    """

    epochs: int = 0
    clips_per_batch: int = 16
    frame_budget: int = 1920  # frames of a batch, over all its clips
    accumulate: int = 1  # batches of one step
    ema_decay: float = 0.0  # of the average of the parameters that evaluation uses; 0: no average
    label_smoothing: float = 0.0
    mask_weight: float = 1.0  # stage 1: lambda in L1 = L_sim + lambda * L_R
    similarity_weight: float = 0.0  # stage 2: of the loss that keeps clips as alike as their sentences
    eval_every: int = 1  # epochs
    patience: int = 0  # evaluations without a better BLEU-4, after which stage 2 stops; 0: it never does
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        for key in ("clips_per_batch", "frame_budget", "accumulate", "eval_every"):
            require(getattr(self, key) > 0, f"{key} is {getattr(self, key)}; it must be positive")
        for key in ("epochs", "patience", "similarity_weight"):
            require(getattr(self, key) >= 0, f"{key} is {getattr(self, key)}; it cannot be negative")
        for key in ("label_smoothing", "ema_decay"):
            require_fraction(key, getattr(self, key))


@dataclass(frozen=True)
class DecodeConfig:
    """Beam search; one beam is greedy."""

    beams: int = 4
    max_new_tokens: int = 150
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for key in ("beams", "max_new_tokens"):
            require(getattr(self, key) > 0, f"{key} is {getattr(self, key)}; it must be positive")


@dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis; -1 takes all that are left."""

    data: int = -1
    fsdp: int = 1


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved and which saves are kept."""

    every_steps: int = 1000  # besides the end of each evaluated epoch
    keep_latest: int = 2
    keep_best: int = 1  # by dev BLEU-4


@dataclass(frozen=True)
class Config:
    """One experiment: the data, the model, and the stages that lead to `stage`.

    `warm_start` trains the CNN on isolated signs (the small stand-in for ImageNet weights), `pretrain` is
    stage 1, `translate` is stage 2. A stage with no epochs is left out.
    """

    name: str = "unnamed"
    stage: str = "translate"  # pretrain | translate: the last stage to run
    seed: int = 0
    # workdir of stage 1, relative to the parent of this workdir; or path of a checkpoint.pth of GFSLT-VLP,
    # of either of its stages; "none": from scratch
    init_from: str = "stage1"
    # workdirs of runs, relative to the parent of this workdir, whose best checkpoints translate together, by
    # the mean of their probabilities; (): this workdir's alone
    ensemble: tuple[str, ...] = ()
    # workdir of a run with model.inputs="question", relative to the parent of this workdir: its scores on the
    # same clips stand beside those of a model that sees the signs; "": none do
    question_only: str = ""
    swap_questions: bool = True  # reports also translate test with shuffled questions, and without
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    warm_start: StageConfig = field(default_factory=StageConfig)
    pretrain: StageConfig = field(default_factory=StageConfig)
    translate: StageConfig = field(default_factory=StageConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log_every: int = 20  # steps
    num_heatmaps: int = 6  # test clips drawn: the worst, the best, the second worst, and so on
    peak_tflops: float = 0.0  # of one device, for MFU in the log; 0: known ones by their name
    profile: str = ""  # "START:STOP": a trace of those steps, for TensorBoard
    compilation_cache: str = "compiled"  # a folder beside the workdir: a restart compiles nothing; "": none

    def __post_init__(self) -> None:
        one_of("stage", self.stage, ("pretrain", "translate"))
        require(
            not self.model.cnn_weights or not self.warm_start.epochs,
            f"model.cnn_weights is {self.model.cnn_weights!r} and warm_start.epochs "
            f"{self.warm_start.epochs}: a CNN starts from one of both; set the one to '' or the other to 0",
        )
        require(
            self.init_from == "none" or self.model.is_mbart,
            f"init_from is {self.init_from!r}; with model.mbart.positions='sinusoidal' or gloss attention "
            "training starts from scratch: set init_from to 'none'",
        )
        longest = max(self.data.max_question_tokens, self.data.max_target_tokens)
        require(
            self.model.text != "mbert" or longest <= self.model.mbert.max_positions,
            f"model.mbert.max_positions is {self.model.mbert.max_positions}; texts of {longest} tokens need "
            "as many: raise it, or lower data.max_question_tokens and data.max_target_tokens",
        )
        require(self.log_every > 0, f"log_every is {self.log_every}; it must be positive")
        for stage in ("warm_start", "pretrain"):
            patience = getattr(self, stage).patience
            require(
                not patience, f"{stage}.patience is {patience}; only translate has the BLEU-4 it waits for"
            )
        require(
            not self.profile or re.fullmatch(r"\d+:\d+", self.profile) is not None,
            f"profile is {self.profile!r}; it must be START:STOP, two steps",
        )

    @property
    def profiled_steps(self) -> range:
        """The steps that are traced, counted from 1."""
        if not self.profile:
            return range(0)
        start, stop = map(int, self.profile.split(":"))
        return range(start, stop + 1)


def default() -> ml_collections.ConfigDict:
    """The parent project's full-size recipe, as a `ConfigDict` that a config file may change."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def from_config_dict(tree: ml_collections.ConfigDict) -> Config:
    """The checked `Config`; `ConfigError` names an unknown key, a wrong type or a bad value."""
    return _build(Config, tree.to_dict(), "config")


def to_dict(config: Config) -> dict[str, Any]:
    """Plain dictionaries and lists, as JSON keeps them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(saved: dict[str, Any], current: dict[str, Any], path: str = "config") -> list[str]:
    """`key: saved value, current value` for each key whose value differs, in words."""
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        old, new = saved.get(key), current.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{path}.{key}")
        elif old != new:
            lines.append(f"{path}.{key}: {old!r} then, {new!r} now")
    return lines


def flag_error(error: Exception) -> str:
    """What absl and ml_collections say of a wrong flag, out of the quotes that they put around it."""
    return str(error).replace("\\'", "'").strip("'\"").replace("\\n", "\n").strip()


def _build(cls: type, values: dict[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        near = difflib.get_close_matches(unknown[0], hints, n=1)
        hint = f"; did you mean {path}.{near[0]}?" if near else f"; known: {', '.join(hints)}"
        raise ConfigError(f"unknown key {path}.{unknown[0]}{hint}")
    converted = {key: _convert(hints[key], value, f"{path}.{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except ConfigError as error:  # a group knows its keys, not where it stands
        raise ConfigError(f"{path}.{error}") from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        require(isinstance(value, dict), f"{path} is {value!r}; it must be a group of keys")
        return _build(typing.cast(type, hint), value, path)
    if isinstance(hint, types.GenericAlias):  # tuple[int, ...]
        require(isinstance(value, (tuple, list)), f"{path} is {value!r}; it must be a tuple")
        return tuple(_convert(typing.get_args(hint)[0], item, path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(type(value) is hint, f"{path} is {value!r}; it must be of type {hint.__name__}")
    return value
