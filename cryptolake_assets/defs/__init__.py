"""The Dagster graph: assets, checks, partitions, sensors and resources."""
