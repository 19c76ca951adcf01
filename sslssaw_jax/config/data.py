"""The configuration of the data: where clips come from and what a batch holds."""

from dataclasses import dataclass

from sslssaw_jax.config.checks import (
    SHARE,
    Range,
    fraction,
    group,
    non_negative,
    positive,
    require,
    setting,
)

TOKENS = Range(4, float("inf"), True, False, "be at least 4")
MOST_FRAMES = Range(1, 4096, True, True, "lie in [1, 4096]")  # as many as a clip from a video file may have


@dataclass(frozen=True)
class AugmentConfig:
    """On-device augmentation, drawn once per clip; zeros switch each part off."""

    rotation: float = non_negative(0.0)  # degrees, uniform in +-
    scale: float = fraction(0.0)  # relative, uniform in 1 +-
    translation: float = non_negative(0.0)  # relative to the image's side, uniform in +-
    crop: bool = False  # draws the output window anywhere in the stored image instead of at its centre
    brightness: float = non_negative(0.0)  # relative to full range, uniform in +-
    contrast: float = non_negative(0.0)  # relative, uniform in 1 +-, per colour channel
    mirror: bool = False  # off by default: handedness carries meaning


@dataclass(frozen=True)
class DataConfig:
    """Where the clips come from and what a batch holds."""

    dataset: str = "avatar_qa"
    data_dir: str = setting("data", free=True)
    # folder of an mBART tokenizer; None: the tokenizer of the pretrained mBART, if any, otherwise the
    # dataset's
    tokenizer: str | None = setting(None, free=True)
    train_split: str = "train"
    # share of train's clips, drawn by `seed`, for which only the sentence is known: no stage trains on these
    # clips, and none of their glosses is counted; SignBT splices signs for the sentences
    text_only: float = fraction(0.0)
    dev_split: str = setting("dev", free=True, scored=True)
    test_split: str = setting("test", free=True, scored=True)
    isolated_split: str = "isolated"  # clips with one sign each, for the warm start
    image_size: int = positive(224)  # side in pixels of the square that the CNN sees
    crop_fraction: float = setting(0.875, SHARE)  # share of a stored frame's side that the square covers
    max_frames: int = setting(300, MOST_FRAMES)
    # from one stored frame to the next, in frames at 25 per second; 4 for a corpus at a quarter of that rate.
    # What S3D and TSPNet's windows see is counted in stored frames
    frame_stride: int = positive(1)
    features: tuple[str, ...] = ()  # prepared feature sets that are read in place of frames
    keypoints: str | None = setting(None)  # a prepared keypoint set that is read with frames
    max_question_tokens: int = setting(64, TOKENS)  # with </s> and the language code
    max_target_tokens: int = setting(64, TOKENS)
    max_glosses: int = positive(40, free=True)  # of a clip, in stages that learn from glosses
    # training batches hold clips of similar length, and are only as long as needed, in steps of 1/N of the
    # limits above; each length is compiled. 1: all batches have the limits' length
    length_steps: int = positive(1)
    mask_rate: float = fraction(0.15)  # share of a sentence's words that stage 1 masks
    num_threads: int = positive(8, free=True)  # that prepare batches; each holds one batch ready
    skip_broken: int = non_negative(0, free=True)  # unreadable clips that training may leave out
    cache: bool = setting(False, free=True)  # keep decoded frames in a file: H * W * 3 bytes each
    cache_dir: str | None = setting(None, free=True)  # where that file goes; None: the dataset's folder
    augment: AugmentConfig = group(AugmentConfig)

    def num_whole(self, num_clips: int) -> int:
        """Return how many of train's clips have more than text."""
        return max(1, round((1 - self.text_only) * num_clips))

    def __post_init__(self) -> None:
        require(
            not (self.cache and self.skip_broken),
            f"cache is True and skip_broken {self.skip_broken}: a cache holds all clips; choose one",
        )
        require(
            len(set(self.features)) == len(self.features),
            f"features is {self.features}: name each set once",
        )
        require(
            not (self.features and self.keypoints),
            f"features is {self.features} and keypoints {self.keypoints!r}: keypoints go with frames, whose "
            "place features take; clear one",
        )
