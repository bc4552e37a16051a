"""Cells: a family of recommenders on a data set under a condition, plain beside denoised."""
