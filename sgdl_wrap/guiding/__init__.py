"""Phase II: a weight for every sample, judged by the memorized data (Sec. 3.2)."""
