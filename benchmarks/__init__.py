"""Benchmarks: CryptoLake vs. bare scripts in the same run. See docs/benchmarks.md and `python -m benchmarks --help`."""
