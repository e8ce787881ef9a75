"""Recorded frames on disk, and what the exchange published beside them."""
