"""The groups of the configuration that make the model; see `sslssaw_jax.config.experiment`."""

from dataclasses import dataclass, field

from sslssaw_jax.config.checks import one_of, require, require_divisor, require_fraction


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
        one_of("block", self.block, ("basic", "bottleneck"))
        one_of("stem", self.stem, ("conv7_pool", "conv7_stride4"))
        one_of("head", self.head, ("pool", "flatten"))
        require(len(self.depths) > 0, "depths is (); it needs at least one level")
        require(
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
        require(len(self.depths) > 0, "depths is (); it needs at least one level")
        require(self.width > 0 and self.width % 2 == 0, f"width is {self.width}; it is halved: make it even")
        for key in ("stem", "features"):
            require(getattr(self, key) > 0, f"{key} is {getattr(self, key)}; it must be positive")


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
        one_of("positions", self.positions, ("learned", "sinusoidal"))
        one_of("activation", self.activation, ("gelu", "relu"))
        one_of("layers", self.layers, ("first", "spread"))
        for key in ("text_heads", "heads"):
            require_divisor(key, getattr(self, key), self.d_model)
        for key in ("dropout", "attention_dropout", "activation_dropout"):
            require_fraction(key, getattr(self, key))


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
        one_of("layers", self.layers, ("first", "spread"))
        require_divisor("heads", self.heads, self.d_model)
        for key in ("dropout", "attention_dropout"):
            require_fraction(key, getattr(self, key))


@dataclass(frozen=True)
class FusionConfig:
    """How question and video become one sequence (Table 5)."""

    kind: str = "ssaw"
    heads: int = 8
    ffn_dim: int = 4096
    dropout: float = 0.1

    def __post_init__(self) -> None:
        one_of("kind", self.kind, ("ssaw", "concat", "lstm", "tcn"))
        require_fraction("dropout", self.dropout)


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
        one_of("cnn", self.cnn, ("resnet", "shufflenet"))
        one_of("text", self.text, ("mbart", "mbert"))
        pretrained_layout = self.resnet.stem == "conv7_pool" and self.resnet.head == "pool"
        require(
            not self.cnn_weights or self.cnn != "resnet" or pretrained_layout,
            f"cnn_weights is {self.cnn_weights!r}; such weights need resnet.stem='conv7_pool' and "
            "resnet.head='pool', or set cnn_weights to ''",
        )
        one_of("alignment", self.alignment, ("pooled", "text_to_video", "video_to_text"))
        one_of("video_activation", self.video_activation, ("relu", "softsign"))
        one_of("attention", self.attention, ("full", "gloss", "gloss_grid_sample"))
        one_of("inputs", self.inputs, ("question", "sign", "both"))
        one_of("ssl", self.ssl, ("prefix", "separate", "off"))
        one_of("remat", self.remat, ("none", "blocks"))
        one_of("compute_dtype", self.compute_dtype, ("auto", "float32", "bfloat16"))
        require(
            self.inputs != "sign" or self.ssl == "off",
            "inputs is 'sign', which reads no question: set model.ssl to 'off'",
        )
        require(
            self.inputs != "sign" or not self.copy_gate,
            "inputs is 'sign', which reads no question to copy from: set model.copy_gate to False",
        )
        require(
            self.text == "mbart" or not self.copy_gate,
            "text is 'mbert', whose tokens the decoder cannot copy: set model.copy_gate to False",
        )
        require_divisor("fusion.heads", self.fusion.heads, self.mbart.d_model)
        require(
            self.is_mbart or not self.mbart.weights,
            f"mbart.weights is {self.mbart.weights!r}; with mbart.positions='sinusoidal' or gloss attention "
            "training starts from scratch: set model.mbart.weights to ''",
        )

    @property
    def is_mbart(self) -> bool:
        """Whether encoder and decoder are mBART's: others start neither from its weights nor from stage 1."""
        return self.mbart.positions == "learned" and self.attention == "full"
