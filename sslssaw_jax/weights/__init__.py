"""Weights of other projects for our models, and the export of ours."""
