"""The command ``sgdl-wrap``: how noisy is a file of clicks, and which rows are?

Its matrix factorization is an instrument to look at clicks with, not a recommender to serve.
"""
