"""The data of the bench. The order of a user's rows is that user's sequence in time."""
