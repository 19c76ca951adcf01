"""Examples to try on the page, from the model's folder or from the test split of its dataset."""

import shutil
from pathlib import Path

import cv2

from sslssaw_jax.data.clips import Clip, ClipSource
from sslssaw_jax.data.dataset import DatasetError, find_dataset
from sslssaw_jax.data.frames import decode_frame
from sslssaw_jax.inference.demo import EXAMPLES, Example, read_examples
from sslssaw_jax.inference.translator import Translator
from sslssaw_jax.workdir import CHECKPOINTS, saved_steps, user_path

CLIPS = 3  # of a test split; the first is shown with two questions
SHORT_SIDE = 384  # small frames are enlarged, so that they survive lossy video


def find_examples(model: str | Path, translator: Translator, folder: Path) -> list[Example]:
    """Return the examples of a model, if any.

    Args:
        model: The name under which the translator was loaded. A folder may hold `examples.jsonl`.
        translator: Names the dataset whose test split is used otherwise, if the model is a run's workdir.
        folder: Is created, and gets the videos in a form that browsers play.
    """
    folder.mkdir()
    if (user_path(model) / EXAMPLES).is_file():
        examples = read_examples(user_path(model))
        return [one._replace(video=Path(shutil.copy(one.video, folder))) for one in examples]
    if not saved_steps(user_path(model) / CHECKPOINTS):
        return []  # the model of another person would choose which of your datasets the page shows
    data = translator.model.config.data
    try:
        test = ClipSource(find_dataset(data.data_dir, data.dataset), data.test_split)
        clips = [test[index] for index in range(min(CLIPS, len(test)))]
    except DatasetError:
        return []
    examples = []
    for clip in clips:
        video = folder / f"{clip.id}.webm"
        write_webm(clip, video, translator.model.facts.fps)
        examples.append(Example(video, clip.question, clip.target))
    first, *others = examples
    words = set(first.question.split())
    other = min(others, key=lambda one: len(words & set(one.question.split())), default=None)
    return [first, *([Example(first.video, other.question, "")] if other else []), *others]


def write_webm(clip: Clip, path: Path, fps: float) -> None:
    """Write a clip as a video that browsers play."""
    frames = [decode_frame(clip.id, clip.video, number) for number in range(clip.num_frames)]
    height, width, _ = frames[0].shape
    scale = max(1.0, SHORT_SIDE / min(height, width))
    size = round(width * scale), round(height * scale)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), fps, size)
    for frame in frames:
        image = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
