"""Faults of a running platform at random points from a seed, each followed by a comparison with what was emitted."""
