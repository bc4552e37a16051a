"""What the denoiser may know of an opaque batch: its pairs, its rows, its stored form."""
