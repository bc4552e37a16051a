"""Recommenders written as anyone would write them: none of them knows of the denoiser."""
