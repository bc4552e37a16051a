"""The bench: where the denoiser helps, where it does nothing, and what it costs."""
