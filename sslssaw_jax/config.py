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


class ConfigError(ValueError):
    """The configuration cannot be; the message names the key and what is allowed."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{key} is {value!r}; allowed: {', '.join(allowed)}")


def _require_fraction(key: str, value: float) -> None:
    _require(0 <= value < 1, f"{key} is {value}; it lies in [0, 1)")


def _require_divisor(key: str, heads: int, d_model: int) -> None:
    _require(heads > 0 and d_model % heads == 0, f"{key} is {heads}; it must divide d_model {d_model}")


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
            _require_fraction(key, getattr(self, key))
        _require(0 < self.crop_fraction <= 1, f"crop_fraction is {self.crop_fraction}; it lies in (0, 1]")
        _require(
            not (self.cache and self.skip_broken),
            f"cache is True and skip_broken {self.skip_broken}: a cache holds all clips; choose one",
        )
        for key in ("image_size", "max_frames", "num_threads", "prefetch"):
            _require(getattr(self, key) > 0, f"{key} is {getattr(self, key)}; it must be positive")
        _require(self.skip_broken >= 0, f"skip_broken is {self.skip_broken}; it cannot be negative")
        for key in ("max_question_tokens", "max_target_tokens"):
            _require(getattr(self, key) >= 4, f"{key} is {getattr(self, key)}; at least 4 are needed")


@dataclass(frozen=True)
class ResNetConfig:
    """ResNet-18 by default; `depths`, `width`, `stem` and `head` reach down to a toy."""

    block: str = "basic"  # basic | bottleneck
    depths: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    stem: str = "conv7_pool"  # conv7_pool (stride 2, max-pool) | conv7_stride4 (no pooling)
    head: str = "pool"  # pool (global average) | flatten (the last map through Linear-BN-ReLU)
    head_features: int = 0  # features of the flatten head

    def __post_init__(self) -> None:
        _one_of("block", self.block, ("basic", "bottleneck"))
        _one_of("stem", self.stem, ("conv7_pool", "conv7_stride4"))
        _one_of("head", self.head, ("pool", "flatten"))
        _require(len(self.depths) > 0, "depths is (); it needs at least one level")
        _require(
            (self.head == "flatten") == (self.head_features > 0),
            f"head_features is {self.head_features} and head {self.head!r}; features go with head='flatten'",
        )


@dataclass(frozen=True)
class ShuffleNetConfig:
    """ShuffleNetV2 x1.0 by default; `depths` and the widths reach its siblings and down to a toy."""

    depths: tuple[int, ...] = (4, 8, 4)
    stem: int = 24  # channels
    width: int = 116  # channels of the first level, doubled at each that follows
    features: int = 1024

    def __post_init__(self) -> None:
        _require(len(self.depths) > 0, "depths is (); it needs at least one level")
        _require(self.width > 0 and self.width % 2 == 0, f"width is {self.width}; it is halved: make it even")
        for key in ("stem", "features"):
            _require(getattr(self, key) > 0, f"{key} is {getattr(self, key)}; it must be positive")


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the mBART parts; the parent project's by default."""

    d_model: int = 1024
    ffn_dim: int = 4096
    text_layers: int = 12
    text_heads: int = 16
    video_layers: int = 3
    decoder_layers: int = 3
    heads: int = 8  # of the video encoder and the decoder
    positions: str = "learned"  # learned, then a layer norm | sinusoidal, and nothing else
    max_positions: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0  # inside the feed-forward blocks
    activation: str = "gelu"
    tied_head: bool = True  # the output head is the token embedding; False: a table of its own
    weights: str = ""  # folder or Hugging Face name of pretrained weights; "" is from scratch
    layers: str = "first"  # which pretrained layers a shallower part gets: first | spread

    def __post_init__(self) -> None:
        _one_of("positions", self.positions, ("learned", "sinusoidal"))
        _one_of("activation", self.activation, ("gelu", "relu"))
        _one_of("layers", self.layers, ("first", "spread"))
        for key in ("text_heads", "heads"):
            _require_divisor(key, getattr(self, key), self.d_model)
        for key in ("dropout", "attention_dropout", "activation_dropout"):
            _require_fraction(key, getattr(self, key))


@dataclass(frozen=True)
class BertConfig:
    """Sizes of the mBERT text tower (Table 6); those of `bert-base-multilingual-cased` by default."""

    d_model: int = 768
    ffn_dim: int = 3072
    num_layers: int = 12
    heads: int = 12
    max_positions: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.1
    weights: str = ""  # folder or Hugging Face name of pretrained weights and tokenizer; "" is from scratch
    layers: str = "first"  # which pretrained layers a shallower tower gets: first | spread

    def __post_init__(self) -> None:
        _one_of("layers", self.layers, ("first", "spread"))
        _require_divisor("heads", self.heads, self.d_model)
        for key in ("dropout", "attention_dropout"):
            _require_fraction(key, getattr(self, key))


@dataclass(frozen=True)
class FusionConfig:
    """How question and video become one sequence (Table 5)."""

    kind: str = "ssaw"
    heads: int = 8
    ffn_dim: int = 4096
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, ("ssaw", "concat", "lstm", "tcn"))
        _require_fraction("dropout", self.dropout)


@dataclass(frozen=True)
class ModelConfig:
    """The model of both stages."""

    cnn: str = "resnet"  # resnet | shufflenet
    # file of torchvision, or folder or hub name of a Hugging Face ResNet, of the same sizes; "": random
    cnn_weights: str = ""
    resnet: ResNetConfig = field(default_factory=ResNetConfig)
    shufflenet: ShuffleNetConfig = field(default_factory=ShuffleNetConfig)
    text: str = "mbart"  # mbart | mbert: what reads sentences in stage 1 and questions in stage 2 (Table 6)
    mbart: TransformerConfig = field(default_factory=TransformerConfig)
    mbert: BertConfig = field(default_factory=BertConfig)
    alignment: str = "pooled"  # pooled | text_to_video | video_to_text: what stage 1 compares (Table 3)
    video_activation: str = "relu"  # relu | softsign: the last of the video embedding
    attention: str = "full"  # full | gloss | gloss_grid_sample: of stage 2's encoder
    fusion: FusionConfig = field(default_factory=FusionConfig)
    inputs: str = "both"  # question | sign | both (Table 7)
    ssl: str = "prefix"  # prefix | separate | off (Eq. 5-7)
    remat: str = "none"  # none | blocks: what training recomputes instead of keeping it in memory
    copy_gate: bool = False  # the decoder may copy tokens of the question
    compute_dtype: str = "auto"  # auto: bfloat16 on GPUs of compute capability 8.0 and above

    def __post_init__(self) -> None:
        _one_of("cnn", self.cnn, ("resnet", "shufflenet"))
        _one_of("text", self.text, ("mbart", "mbert"))
        pretrained_layout = self.resnet.stem == "conv7_pool" and self.resnet.head == "pool"
        _require(
            not self.cnn_weights or self.cnn != "resnet" or pretrained_layout,
            f"cnn_weights is {self.cnn_weights!r}; such weights need resnet.stem='conv7_pool' and "
            "resnet.head='pool', or set cnn_weights to ''",
        )
        _one_of("alignment", self.alignment, ("pooled", "text_to_video", "video_to_text"))
        _one_of("video_activation", self.video_activation, ("relu", "softsign"))
        _one_of("attention", self.attention, ("full", "gloss", "gloss_grid_sample"))
        _one_of("inputs", self.inputs, ("question", "sign", "both"))
        _one_of("ssl", self.ssl, ("prefix", "separate", "off"))
        _one_of("remat", self.remat, ("none", "blocks"))
        _one_of("compute_dtype", self.compute_dtype, ("auto", "float32", "bfloat16"))
        _require(
            self.inputs != "sign" or self.ssl == "off",
            "inputs is 'sign', which reads no question: set model.ssl to 'off'",
        )
        _require(
            self.inputs != "sign" or not self.copy_gate,
            "inputs is 'sign', which reads no question to copy from: set model.copy_gate to False",
        )
        _require(
            self.text == "mbart" or not self.copy_gate,
            "text is 'mbert', whose tokens the decoder cannot copy: set model.copy_gate to False",
        )
        _require_divisor("fusion.heads", self.fusion.heads, self.mbart.d_model)
        _require(
            self.is_mbart or not self.mbart.weights,
            f"mbart.weights is {self.mbart.weights!r}; with mbart.positions='sinusoidal' or gloss attention "
            "training starts from scratch: set model.mbart.weights to ''",
        )

    @property
    def is_mbart(self) -> bool:
        """Whether encoder and decoder are mBART's: others start neither from its weights nor from stage 1."""
        return self.mbart.positions == "learned" and self.attention == "full"


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
        _one_of("name", self.name, ("sgd", "adam", "adamw"))
        _require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be positive")


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
            _require(getattr(self, key) > 0, f"{key} is {getattr(self, key)}; it must be positive")
        for key in ("epochs", "patience", "similarity_weight"):
            _require(getattr(self, key) >= 0, f"{key} is {getattr(self, key)}; it cannot be negative")
        for key in ("label_smoothing", "ema_decay"):
            _require_fraction(key, getattr(self, key))


@dataclass(frozen=True)
class DecodeConfig:
    """Beam search; one beam is greedy."""

    beams: int = 4
    max_new_tokens: int = 150
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for key in ("beams", "max_new_tokens"):
            _require(getattr(self, key) > 0, f"{key} is {getattr(self, key)}; it must be positive")


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
        _one_of("stage", self.stage, ("pretrain", "translate"))
        _require(
            not self.model.cnn_weights or not self.warm_start.epochs,
            f"model.cnn_weights is {self.model.cnn_weights!r} and warm_start.epochs "
            f"{self.warm_start.epochs}: a CNN starts from one of both; set the one to '' or the other to 0",
        )
        _require(
            self.init_from == "none" or self.model.is_mbart,
            f"init_from is {self.init_from!r}; with model.mbart.positions='sinusoidal' or gloss attention "
            "training starts from scratch: set init_from to 'none'",
        )
        longest = max(self.data.max_question_tokens, self.data.max_target_tokens)
        _require(
            self.model.text != "mbert" or longest <= self.model.mbert.max_positions,
            f"model.mbert.max_positions is {self.model.mbert.max_positions}; texts of {longest} tokens need "
            "as many: raise it, or lower data.max_question_tokens and data.max_target_tokens",
        )
        _require(self.log_every > 0, f"log_every is {self.log_every}; it must be positive")
        for stage in ("warm_start", "pretrain"):
            patience = getattr(self, stage).patience
            _require(
                not patience, f"{stage}.patience is {patience}; only translate has the BLEU-4 it waits for"
            )
        _require(
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
        _require(isinstance(value, dict), f"{path} is {value!r}; it must be a group of keys")
        return _build(typing.cast(type, hint), value, path)
    if isinstance(hint, types.GenericAlias):  # tuple[int, ...]
        _require(isinstance(value, (tuple, list)), f"{path} is {value!r}; it must be a tuple")
        return tuple(_convert(typing.get_args(hint)[0], item, path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _require(type(value) is hint, f"{path} is {value!r}; it must be of type {hint.__name__}")
    return value
