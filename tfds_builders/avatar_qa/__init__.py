"""The TFDS dataset avatar_qa."""
