"""A stage with what its evaluation needs: compiled steps, run over the batches of a split."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.faults import explain_device_errors
from sslssaw_jax.training.progress import show_progress
from sslssaw_jax.training.sharding import local_frames, replicated, shard_batch
from sslssaw_jax.types import Batch, TrainState


@dataclass(frozen=True)
class Runner:
    """A stage, its configuration, tokenizer and devices, and the glosses of the run, if any."""

    stage: Stage
    config: Config
    tokenizer: Tokenizer
    mesh: Mesh
    glosses: GlossVocabulary | None = None

    @property
    def stage_config(self) -> StageConfig:
        """Return the stage's group of the configuration."""
        return getattr(self.config, self.stage.name)

    def with_batches(self, stage_config: StageConfig, **changes: Any) -> "Runner":
        """Return a runner with different batches, and other changes."""
        changes[self.stage.name] = stage_config
        return replace(self, config=replace(self.config, **changes))

    def compile(self, step: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
        """Return a step of the stage's model, compiled at its first call."""
        step = partial(step, graphdef=self.stage.eval_def, **fixed)
        return jax.jit(step, out_shardings=replicated(self.mesh))

    def over(
        self,
        clips: ClipSource,
        step: Callable[..., Any],
        state: TrainState,
        progress: str = "",
        *,
        only: Sequence[int] | None = None,
        glosses: GlossVocabulary | None = None,
    ) -> Iterator[tuple[Batch, Any]]:
        """Yield each batch of a split with a compiled step's results.

        Args:
            clips: The split.
            step: What `compile` returns.
            state: The parameters.
            progress: The text before the progress; without it, no progress is shown.
            only: Indices of the clips to read; None reads all.
            glosses: The vocabulary of the clips' glosses; None leaves these out.
        """
        frames = local_frames(self.mesh, self.stage_config.frame_budget)
        batches = eval_batches(
            clips, self.tokenizer, self.config.data, self.stage_config, frames, only, glosses
        )
        num_clips = len(clips.clips if only is None else only)
        for batch in show_progress(batches, num_clips, progress) if progress else batches:
            yield batch, self.run(step, state, batch, lambda batch: shard_batch(batch, self.mesh))

    def run(
        self, step: Callable[..., Any], state: TrainState, batch: Batch, place: Callable[[Batch], Batch]
    ) -> Any:
        """Return a compiled step's results; `place` puts the batch on devices."""
        with explain_device_errors(self.stage.name):
            return jax.device_get(step(state.eval_params, state.batch_stats, place(batch)))
