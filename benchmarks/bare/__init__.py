"""Bare yardsticks: the exact one-minute bars of plain Parquet files, and nothing else.

No catalog, no check, no commit, one process each: `python -m benchmarks.bare.<name> DATA OUT` reads `DATA/int` or
`DATA/dec`, writes the bars to the Parquet file OUT and prints what it took. All bars are equal (`benchmarks.bars`).
"""
