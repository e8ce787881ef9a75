"""Batch sources: what is asked of each over HTTP, and how its answers become typed rows."""
