"""Measurements of the fallback step; see `benchmarks.fallback.__main__`."""
