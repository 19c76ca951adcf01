"""The TFDS dataset csl_daily_qa."""
