"""The user's model, loss and batches: how they are called, tried, watched and put back."""
