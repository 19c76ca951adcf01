"""The TFDS dataset custom_qa."""
