"""Phase I: which interactions the model memorizes early, and when to stop listening (Sec. 3.1)."""
