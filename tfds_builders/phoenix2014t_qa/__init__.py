"""The TFDS dataset phoenix2014t_qa."""
