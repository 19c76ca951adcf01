"""Question-based sign language translation (SSL-SSAW) in JAX and Flax."""

__version__ = "0.1.0"
