"""An experiment: the chain of a system's stages, and the data that they read."""

from sslssaw_jax.experiment.experiment import Experiment

__all__ = ["Experiment"]
