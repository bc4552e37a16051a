"""One training: batches, what each model is trained with, the loop, the metrics."""
