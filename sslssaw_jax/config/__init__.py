"""The configuration of an experiment as frozen dataclasses."""
