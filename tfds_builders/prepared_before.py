"""Whether an existing dataset was prepared from the same files with the same options."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslssaw_jax.data.dataset import DatasetFacts
from tfds_builders.annotation import MissingInputError

if TYPE_CHECKING:  # each worker process of a builder imports this module, which therefore stays light
    from tfds_builders.video_qa_builder import VideoQaBuilder


def options_of(builder: "VideoQaBuilder", vocab_size: int) -> dict[str, Any]:
    """Return the options that determine what is prepared."""
    options = {name: getattr(builder, name) for name in ("language", "resize", "fps", "text_only")}
    return options | {"vocab_size": vocab_size}


def differences(
    facts: DatasetFacts, builder: "VideoQaBuilder", manual_dir: Path | None, vocab_size: int
) -> list[str]:
    """List what differs from what would be prepared now.

    Without `manual_dir`, or if the files are no longer there, only options are compared.
    """
    then, now = facts.to_json(), options_of(builder, vocab_size)
    found = [f"--{key}: {then[key]} then, {now[key]} now" for key in now if then[key] != now[key]]
    if manual_dir is not None and builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        found += _source_differences(facts, builder, manual_dir)
    return found


def _source_differences(facts: DatasetFacts, builder: "VideoQaBuilder", manual_dir: Path) -> list[str]:
    then = facts.source
    try:
        now = builder.read_source(manual_dir)
    except MissingInputError as error:
        if manual_dir.resolve().name == then.folder:  # cleared away since
            return []
        return [f"--manual_dir: {then.folder} then, {manual_dir} now, where {error}"]
    paths = sorted(then.tables.keys() | now.tables.keys())
    changed = [f"{path}: changed" for path in paths if then.tables.get(path) != now.tables.get(path)]
    if then.videos != now.videos and not changed:
        changed = ["videos: their names, sizes or times changed"]
    if changed and then.folder != now.folder:
        changed.insert(0, f"--manual_dir: {then.folder} then, {now.folder} now")
    return changed
