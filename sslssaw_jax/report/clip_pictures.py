"""What the model saw of a clip, as a picture in the workdir."""

from pathlib import Path

import numpy as np
from matplotlib import image

from sslssaw_jax.data.clips import Clip
from sslssaw_jax.data.frames import decode_frame, select_frames
from sslssaw_jax.evaluation.predictions import Gate, Prediction
from sslssaw_jax.report.heatmap import save_heatmap
from sslssaw_jax.workdir import FRAMES, HEATMAPS

FRAMES_SHOWN = 8  # of a clip


def draw_clip(workdir: Path, clip: Clip, row: Prediction, gate: Gate | None, max_frames: int) -> None:
    """Draw a clip's heat map (Fig. 4), or its frames without a gate.

    The picture is `WORKDIR/heatmaps/<clip>.png` or `WORKDIR/frames/<clip>.jpg`. Its frames are evenly spaced
    over those that the model reads, at most `max_frames`.
    """
    read = select_frames(clip.num_frames, max_frames, None)
    shown = np.linspace(0, len(read) - 1, min(FRAMES_SHOWN, len(read))).round().astype(int)
    frames = np.stack([decode_frame(clip.id, clip.video, number) for number in read[shown]])
    if gate is None:
        path = workdir / FRAMES / f"{row.id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.imsave(path, np.concatenate(list(frames), axis=1))
        return
    save_heatmap(
        workdir / HEATMAPS / f"{row.id}.png",
        tokens=gate.tokens,
        gate=gate.weights,
        frames=frames,
        question=row.question,
        target=row.target,
        prediction=row.prediction,
    )
