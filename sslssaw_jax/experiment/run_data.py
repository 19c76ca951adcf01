"""What an experiment reads: dataset, tokenizer, feature sets, glosses and clips."""

from functools import cached_property
from pathlib import Path

from jax.sharding import Mesh

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import Batches, train_batches
from sslssaw_jax.data.clips import ClipSource, whole_clips
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.features import find_features
from sslssaw_jax.data.fitting import require_written_targets
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.data.keypoints import find_keypoints
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer
from sslssaw_jax.data.saved_tokenizer import load_saved_tokenizer
from sslssaw_jax.inference.trained_model import TrainedModel
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.systems import SYSTEMS
from sslssaw_jax.training.loop import make_recipe
from sslssaw_jax.training.sharding import local_frames
from sslssaw_jax.weights.mbart import mbart_folder
from sslssaw_jax.weights.mbert import bert_tokenizer
from sslssaw_jax.workdir import TOKENIZER, read_notes


class RunData:
    """The data of a run, which its configuration or its base model names.

    Args:
        config: Of the run.
        workdir: Of the run.
        base: The trained model that the run continues from, if any.

    Raises:
        DatasetError: The dataset has not been prepared, or has no such feature set.
        TokenizerError: `data.tokenizer` is not an mBART tokenizer.
        WeightsError: There is no folder for the pretrained weights that bring the tokenizer.
    """

    def __init__(self, config: Config, workdir: Path, base: TrainedModel | None) -> None:
        self._config, self._workdir, self._base = config, workdir, base
        self._system = SYSTEMS[config.system]
        self.dataset = find_dataset(config.data.data_dir, config.data.dataset)
        self.tokenizer = self._load_tokenizer()
        features = find_features(self.dataset, config.data.features)
        keypoints = find_keypoints(self.dataset, config.data.keypoints)
        self.feature_sets = [*features, *([keypoints] if keypoints else [])]
        self.stage_inputs = StageInputs(
            self.tokenizer.vocab_size,
            self.tokenizer.text_tower.vocab_size,
            clips=lambda split: self.clips(split, video=False).clips,
            features=features,
            keypoints=keypoints.points if keypoints else (),
            glosses=lambda: self.glosses,
        )

    def _load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer of the base, configuration, pretrained mBART or dataset."""
        if self._base:
            return self._base.tokenizer
        data, model = self._config.data, self._config.model
        brings_none = not data.tokenizer and not self.dataset.tokenizer_folder.exists()
        if brings_none and (self._workdir / TOKENIZER).exists():  # clips that are only translated
            return load_saved_tokenizer(self._workdir, self.dataset.language)
        folder: str | Path = data.tokenizer or self.dataset.tokenizer_folder
        mbart = getattr(model, "mbart", None)
        if mbart and mbart.weights and not data.tokenizer:
            folder = mbart_folder(mbart, data)
        mbert = self._system.text_tower(model)
        text_tower = bert_tokenizer(mbert, self.clips(data.train_split, video=False)) if mbert else None
        return load_tokenizer(folder, self.dataset.language, text_tower)

    @cached_property
    def glosses(self) -> GlossVocabulary:
        """Return the glosses or words of the base, run or train split.

        Raises:
            DatasetError: The train split has none.
            DamagedFileError: The file of the run's glosses is damaged.
        """
        if self._base and self._base.glosses:
            return self._base.glosses
        vocabulary = self._system.vocabulary
        # translated clips may come from another dataset; a run without a checkpoint may have had other
        # settings
        if read_notes(self._workdir) and vocabulary.file(self._workdir).exists():
            return vocabulary.load(self._workdir)
        clips = self.clips(self._config.data.train_split, video=False)
        clips.clips = [clips.clips[index] for index in self.whole_clips(clips)]
        return vocabulary.of_split(clips)

    def clips(self, split: str, *, video: bool) -> ClipSource:
        """Open a split, with its frames or features if asked for."""
        return open_clips(self.dataset, self._config.data, split, video=video)

    def whole_clips(self, clips: ClipSource) -> list[int]:
        """Return the places of train's clips that have more than text."""
        return whole_clips(len(clips), self._config.data, self._config.seed)

    def _require_questions(self, stage: Stage, clips: ClipSource) -> None:
        """Raise ConfigError if train has no question but dev has."""
        dev = self.clips(self._config.data.dev_split, video=False)
        asked, scored = (any(clip.question for clip in source.clips) for source in (clips, dev))
        if scored and not asked:
            raise ConfigError(
                f"{stage.name}: no clip of {clips.split} in {self.dataset.folder} has a question, but clips "
                f"of {dev.split} have, and the model would not learn to read them. Get the questions of "
                f"{clips.split}, or train a model of the video alone, for SSL-SSAW by "
                "--config.model.inputs=video --config.model.ssl=off"
            )

    def train_batches(self, stage: Stage, clips: ClipSource, mesh: Mesh) -> Batches:
        """Return a stage's batches, checked against its optimizer."""
        stage_config = getattr(self._config, stage.name)
        if getattr(stage_config, "drop_words", 0) and not stage.reads_question:
            raise ConfigError(
                f"config.{stage.name}.drop_words is {stage_config.drop_words}, but the model reads no "
                "question: set it to 0"
            )
        if stage.reads_question:
            self._require_questions(stage, clips)
        if not (self._base or stage.bank):  # with a base, texts are compared character by character
            require_written_targets(clips, self.tokenizer)
        try:
            batches = train_batches(
                clips,
                self.tokenizer,
                self._config.data,
                stage_config,
                self._config.seed,
                local_frames(mesh, stage_config.frame_budget),
                ask=stage.ask,
                glosses=self.glosses if stage.reads_gloss else None,
            )
        except ConfigError as error:
            raise ConfigError(f"{stage.name}: {error}") from None
        make_recipe(stage, stage_config, batches)
        clips.get_ready()  # a signal ends this immediately, while in a step it would have to wait
        return batches
