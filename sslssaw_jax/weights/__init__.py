"""Weights of other projects for our models, and the export of our own."""
