"""The user's training loop, step by step and epoch by epoch: the only place that changes state."""
