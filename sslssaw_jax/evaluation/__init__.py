"""Scores of translations, and what the questions give away of them."""
