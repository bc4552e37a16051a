"""Plain and denoised training side by side, printed: ``python -m bench.compare``."""
