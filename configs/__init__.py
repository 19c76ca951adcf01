"""Experiments, one file each, which returns a `ConfigDict`."""
