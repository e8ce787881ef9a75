"""Recorded frames on disk, and the exchange's published files for the same period."""
