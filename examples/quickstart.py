"""Trains a recommender as usual and denoised, side by side: ``python -m examples.quickstart``."""

from bench.compare.__main__ import main

if __name__ == "__main__":
    main()
