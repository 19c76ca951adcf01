"""TFDS builders for question-based sign language translation datasets, without TensorFlow."""
