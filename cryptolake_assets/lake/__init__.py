"""Iceberg: catalog, table schemas, readers and commits."""
