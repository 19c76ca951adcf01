"""TFDS builders of datasets for question-based sign language translation, without TensorFlow."""
