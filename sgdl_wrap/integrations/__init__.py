"""Homes in other training frameworks; each module is imported only when asked for."""
