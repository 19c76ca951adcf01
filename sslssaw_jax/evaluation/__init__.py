"""Scores of translations, and how much of them the questions give away."""
