"""What the model saw of a clip and what its sentence depends on, as a picture in the workdir."""

import io
from pathlib import Path

import numpy as np

from sslssaw_jax.data.clips import Clip
from sslssaw_jax.data.frames import decode_frame, select_frames
from sslssaw_jax.evaluation.explanation import Explanation
from sslssaw_jax.evaluation.predictions import Gate, Prediction
from sslssaw_jax.report.heatmap import draw_heatmap
from sslssaw_jax.report.text_layout import fonts_for
from sslssaw_jax.workdir import HEATMAPS, inside, write_bytes

FRAMES_SHOWN = 8  # of a clip
DPI = 110


def draw_clip(
    workdir: Path, clip: Clip, row: Prediction, gate: Gate | None, explanation: Explanation, max_frames: int
) -> None:
    """Draw `WORKDIR/heatmaps/<clip>.png`: gate, if any, and explanation.

    Raises:
        WorkdirError: The name of the clip, or a link, leads out of the workdir.
    """
    path, drawn = inside(workdir, workdir / HEATMAPS / f"{row.id}.png"), io.BytesIO()
    with fonts_for(row.question, row.target, row.prediction):
        figure = draw_heatmap(
            gate=gate,
            explanation=explanation,
            frames=shown_frames(clip, max_frames),
            question=row.question,
            target=row.target,
            prediction=row.prediction,
        )
        figure.savefig(drawn, dpi=DPI)
    write_bytes(path, drawn.getvalue())


def shown_frames(clip: Clip, max_frames: int) -> np.ndarray:
    """Return frames for a picture, u8[k, H, W, 3].

    They are evenly spaced over the frames that the model reads, at most `max_frames`.
    """
    read = select_frames(clip.num_frames, max_frames, None)
    shown = np.linspace(0, len(read) - 1, min(FRAMES_SHOWN, len(read))).round().astype(int)
    return np.stack([decode_frame(clip.id, clip.video, number) for number in read[shown]])
