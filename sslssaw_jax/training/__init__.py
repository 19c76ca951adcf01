"""The loop that trains a stage, its checkpoints, devices and logs."""
