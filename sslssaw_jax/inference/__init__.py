"""A trained model in use: from a video and a question to a sentence."""
