"""Runnable examples: ordinary recommenders, ordinary training loops, and what the denoiser adds."""
