"""What the model saw of a clip, as a picture in the workdir."""

import io
from pathlib import Path

import numpy as np
from matplotlib import image

from sslssaw_jax.data.clips import Clip
from sslssaw_jax.data.frames import decode_frame, select_frames
from sslssaw_jax.evaluation.predictions import Gate, Prediction
from sslssaw_jax.report.heatmap import draw_heatmap
from sslssaw_jax.report.text_layout import fonts_for
from sslssaw_jax.workdir import FRAMES, HEATMAPS, inside, write_bytes

FRAMES_SHOWN = 8  # of a clip
DPI = 110


def draw_clip(workdir: Path, clip: Clip, row: Prediction, gate: Gate | None, max_frames: int) -> None:
    """Draw a clip's heat map (Fig. 4); without a gate, its frames.

    The picture is `WORKDIR/heatmaps/<clip>.png` or `WORKDIR/frames/<clip>.jpg`. Its frames are evenly spaced
    over those that the model reads, at most `max_frames`.

    Raises:
        WorkdirError: The name of the clip, or a link, leads out of the workdir.
    """
    read = select_frames(clip.num_frames, max_frames, None)
    shown = np.linspace(0, len(read) - 1, min(FRAMES_SHOWN, len(read))).round().astype(int)
    frames = np.stack([decode_frame(clip.id, clip.video, number) for number in read[shown]])
    path = workdir / FRAMES / f"{row.id}.jpg" if gate is None else workdir / HEATMAPS / f"{row.id}.png"
    drawn = io.BytesIO()
    if gate is None:
        image.imsave(drawn, np.concatenate(list(frames), axis=1), format="jpeg")
        write_bytes(inside(workdir, path), drawn.getvalue())
        return
    with fonts_for(row.question, row.target, row.prediction):
        figure = draw_heatmap(
            tokens=gate.tokens,
            gate=gate.weights,
            frames=frames,
            question=row.question,
            target=row.target,
            prediction=row.prediction,
        )
    figure.savefig(drawn, dpi=DPI)
    write_bytes(inside(workdir, path), drawn.getvalue())
