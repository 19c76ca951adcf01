"""What a stage of training is, its step, and the losses that systems share."""
