"""How well rankings of suspicion find noise: ``python -m bench.audit``."""
