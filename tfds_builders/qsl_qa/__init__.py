"""The TFDS dataset qsl_qa."""
