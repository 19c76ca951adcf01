"""Weights of other projects in, and ours out: `python -m sslssaw_jax.weights --help`."""
