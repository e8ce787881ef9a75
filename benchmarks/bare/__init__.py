"""Bare baselines: exact one-minute bars from plain Parquet files, without catalog, checks or commits.

Each script is one process: `python -m benchmarks.bare.<name> DATA OUT` reads `DATA/int` or `DATA/dec`, writes the bars
to the Parquet file OUT and prints time and memory. All scripts produce equal bars (`benchmarks.bars`).
"""
