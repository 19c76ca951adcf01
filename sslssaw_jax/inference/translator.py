"""The translator: a video and a question in, a sentence out."""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from sslssaw_jax.data.batches import question_length
from sslssaw_jax.data.clips import Clip, ClipsInMemory, ClipSource
from sslssaw_jax.data.video import MAX_FRAMES
from sslssaw_jax.evaluation.explanation import Explanation
from sslssaw_jax.evaluation.occlusion import Explainer
from sslssaw_jax.evaluation.predictions import Gate, Sentence
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.evaluation.split_translator import SplitTranslator
from sslssaw_jax.inference.card import model_card
from sslssaw_jax.inference.demo import DEMO
from sslssaw_jax.inference.trained_model import MODEL_FILES, ModelError, TrainedModel, load, save_folder
from sslssaw_jax.inference.videos import TOO_LONG, Video, make_clip, read_frames, video_name
from sslssaw_jax.systems import SYSTEMS
from sslssaw_jax.training.sharding import one_device
from sslssaw_jax.workdir import user_path

HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]  # of httpx or httpx2: also no connection
_REMEDY = (
    "train it with run.py, or name no model (leave out --model) for the demo that comes with the package"
)
_ALONE = 4  # up to this many clips are translated one by one; more fill the batches of the run's evaluation


@dataclass(frozen=True)
class Answer:
    """A translation of one clip, as the answer to one question."""

    question: str
    text: str
    score: float  # log-probability over the norm of the length
    alternatives: tuple[Sentence, ...]  # the other sentences that beam search found, best first
    gate: Gate | None  # the fusion's weight of each word and video position; None without SSAW
    # False if the score is below the threshold that the model's evaluation found on dev, or the clip shorter
    # than all of train and dev
    understood: bool
    explanation: Explanation | None = None  # what the text depends on, if asked for

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold."""
        found = dataclasses.asdict(self)
        if self.gate is not None:
            found["gate"]["weights"] = self.gate.weights.tolist()
        return found

    def __str__(self) -> str:
        return self.text if self.understood else f"not understood, did you mean: {self.text}"


class Translator(ModelHubMixin, library_name="sslssaw_jax"):
    """A trained model that answers questions about videos.

    Size, crop, frame rate, language and tokenizer are those of the model's training. A translator is safe to
    share between threads.

    Args:
        model: The model; `from_pretrained` loads one.

    Raises:
        ModelError: The model reads anything but videos and questions, or knows no frame size.
    """

    def __init__(self, model: TrainedModel) -> None:
        learnt = SYSTEMS[model.config.system].learns_keypoints
        read = [one.name for one in model.features if not (learnt and one.points)]
        if read:
            beside = bool(model.config.data.keypoints)
            kind, how = ("keypoints", "in addition to") if beside else ("features", "in place of")
            raise ModelError(
                f"the model reads the {kind} {', '.join(read)} {how} videos: write such {kind} of your clips "
                "into a prepared dataset, and use run.py --mode=translate"
            )
        if not (model.stage.reads_video or model.stage.reads_question):
            raise ModelError(
                f"the model is from the stage {model.stage.name}, which reads neither videos nor questions: "
                "name the run of a later stage"
            )
        if model.facts.frame_size == (0, 0):
            raise ModelError(
                "the model was trained on texts without videos, and knows no frame size: prepare "
                "questions with --text_only, and use run.py --mode=translate"
            )
        self.model = model
        self._runner = Runner(model.stage, model.config, model.tokenizer, one_device())
        self._compiled: dict[tuple[int, int], SplitTranslator] = {}
        self._explain = Explainer(self._runner, model.facts.fps)

    @classmethod
    def from_pretrained(cls, name: str | Path = DEMO, **options: Any) -> Self:  # type: ignore[override]
        """Load a model.

        Args:
            name: A run's workdir, whose best checkpoint is loaded; a folder that `save_pretrained` wrote; or
                a model on the Hugging Face hub, `user/name`. By default, the demo that comes with the
                package.
            **options: For the hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            ModelError: There is no such model, or it does not translate.
            UserError: The files of the model do not match.
        """
        folder = user_path(name)
        if folder.is_dir():
            return cls(load(folder))
        if folder.parent != Path() and folder.parent.is_dir():
            raise ModelError(
                f"there is no model {name}: {folder.parent} is a folder here, and has no {folder.name}; "
                f"{_REMEDY}"
            )
        try:
            return super().from_pretrained(name, **options)
        except (HTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise ModelError(
                f"there is no model {name}: there is no such folder, and the Hugging Face hub gave none "
                f"({next(iter(str(error).splitlines()), repr(error))}); {_REMEDY}"
            ) from error

    def __call__(
        self,
        video: Video | Sequence[Video],
        question: str | Sequence[str] = "",
        *,
        explain: bool = False,
    ) -> Answer | list[Answer]:
        """Translate one clip or several.

        Args:
            video: A path (mp4, webm, avi, mov, or a folder of frames), an array u8[T, H, W, 3] in RGB at the
                model's frame rate, or a list of these.
            question: The question that the signer answers, or a list of them. Lists have the same length, and
                one question serves all clips as one clip serves all questions.
            explain: Whether to find what each text depends on: its loss without each word of the question,
                and without each stretch of the video.

        Returns:
            An answer, or a list of them if a list was given.

        Raises:
            VideoError: A video cannot be read, or a question is not a text.
            ValueError: The numbers of questions and videos differ.
        """
        answers = self.answer(self.read(video, question), explain=explain)
        alone = isinstance(video, (str, Path, np.ndarray)) and isinstance(question, str)
        return answers[0] if alone else answers

    def read(
        self,
        video: Video | Sequence[Video],
        question: str | Sequence[str] = "",
        *,
        most_frames: int = MAX_FRAMES,
    ) -> list[Clip]:
        """Return the clips to translate.

        Args:
            video: As for a call.
            question: As for a call.
            most_frames: A video file with more is refused.
        """
        videos = [video] if isinstance(video, (str, Path, np.ndarray)) else list(video)
        questions = [question] if question is None or isinstance(question, str) else list(question)
        frames = [read_frames(one, self.model.facts, most_frames) for one in videos]
        longest = self.model.config.data.max_frames
        for one, found in zip(videos, frames):
            if len(found) > TOO_LONG * longest:
                warnings.warn(
                    f"{video_name(one)} has {len(found)} frames, but the model reads at most {longest}: cut "
                    "it, one sentence per video",
                    stacklevel=2,
                )
        if len(frames) == 1:
            frames *= len(questions)
        elif len(questions) == 1:
            questions *= len(frames)
        if len(frames) != len(questions):
            raise ValueError(f"{len(videos)} videos and {len(questions)} questions: give as many of each")
        clips = [make_clip(number, *pair) for number, pair in enumerate(zip(frames, questions))]
        self._warn_of_cut_questions(clips)
        return clips

    def tokens_not_read(self, question: str) -> int:
        """Return how many tokens of a question's end the model ignores."""
        most = self.model.config.data.max_question_tokens
        length = question_length(question, self.model.tokenizer) if self.model.stage.reads_question else 0
        return max(length - most, 0)

    def _warn_of_cut_questions(self, clips: Sequence[Clip]) -> None:
        most = self.model.config.data.max_question_tokens
        for question in dict.fromkeys(clip.question for clip in clips):
            if more := self.tokens_not_read(question):
                warnings.warn(
                    f"the question that begins with {question[:40]!r} has {most + more} tokens, but the "
                    f"model reads {most}: its end is ignored, shorten it",
                    stacklevel=3,
                )

    def answer(self, clips: Sequence[Clip], *, explain: bool = False) -> list[Answer]:
        """Translate clips that `read` returned."""
        source, every = ClipsInMemory(clips), range(len(clips))
        groups = [[index] for index in every] if len(clips) <= _ALONE else [list(every)]
        answers = []
        for group in groups:
            found = self._translator(source, group).search(self.model.state, source, group)
            for index, (sentences, gate, _) in found.items():
                best, *others = sentences
                whole = clips[index].num_frames >= self.model.shortest
                understood = whole and best.score >= self.model.threshold
                explanation = self._explain(self.model.state, source, index, best.text) if explain else None
                question, alternatives = clips[index].question, tuple(others)
                answers.append(
                    Answer(question, best.text, best.score, alternatives, gate, understood, explanation)
                )
        return answers

    def compile(self) -> None:
        """Compile what answers need, so that no later call has to wait."""
        longest, size = self.model.config.data.max_frames, self.model.facts.frame_size
        for num_frames in self._lengths:
            black = np.zeros((num_frames, *size, 3), np.uint8)
            self(black, explain=num_frames == longest)

    def draw(self, clip: Clip, answers: Sequence[Answer], path: str | Path) -> None:
        """Draw what the answers about one clip depend on, as a picture.

        Args:
            clip: One that `read` returned.
            answers: Answers about its video, each with its explanation.
            path: The picture to write; the end of its name, such as `.png`, chooses the format.
        """
        # translations should not wait for the import of matplotlib
        from sslssaw_jax.report.clip_pictures import DPI, shown_frames
        from sslssaw_jax.report.drops import draw_explanations
        from sslssaw_jax.report.text_layout import fonts_for

        shown = shown_frames(clip, self.model.config.data.max_frames)
        explained = [(answer.question, answer.explanation) for answer in answers if answer.explanation]
        with fonts_for(*(answer.question + answer.text for answer in answers)):
            draw_explanations(explained, shown).savefig(path, dpi=DPI)

    @property
    def _lengths(self) -> tuple[int, ...]:
        """Return the lengths to which a single clip is padded."""
        longest = self._runner.config.data.max_frames
        return -(-longest // 4), -(-longest // 2), longest

    def _translator(self, clips: ClipSource, group: Sequence[int]) -> SplitTranslator:
        """Return the translator for a batch's size, compiled on first use."""
        config, batch = self._runner.config, self._runner.stage_config
        size = batch.clips_per_batch, batch.frame_budget
        if len(group) == 1:
            num_frames = min(clips.clips[group[0]].num_frames, config.data.max_frames)
            size = 1, next(length for length in self._lengths if num_frames <= length)
        if size not in self._compiled:
            batch = dataclasses.replace(batch, clips_per_batch=size[0], frame_budget=size[1])
            self._compiled[size] = SplitTranslator(self._runner.with_batches(batch))
        return self._compiled[size]

    def generate_model_card(self, repo_id: str = "path/to/this/folder") -> ModelCard:  # type: ignore[override]
        """Return the card that `save_pretrained` writes as README.md."""
        return model_card(self.model, repo_id)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # type: ignore[override]
        """Upload the model to the Hugging Face hub.

        Args:
            repo_id: `user/name`; created if there is no such model, and another model there is replaced.
            **options: `private`, `token`, `branch`, `create_pr`, `commit_message`.
        """
        options |= {"model_card_kwargs": {"repo_id": repo_id}}
        if not {"allow_patterns", "ignore_patterns"} & options.keys():
            # what is uploaded is kept: this deletes files that only the model before had
            options.setdefault("delete_patterns", list(MODEL_FILES))
        return super().push_to_hub(repo_id, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_folder(self.model, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        return cls(load(Path(snapshot_download(model_id, allow_patterns=list(MODEL_FILES), **options))))
