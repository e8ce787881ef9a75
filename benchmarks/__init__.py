"""Benchmarks: each figure is a ratio taken in one run. See docs/benchmarks.md and `python -m benchmarks --help`."""
