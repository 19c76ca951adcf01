"""Using a trained model: from a video and a question to a sentence."""
