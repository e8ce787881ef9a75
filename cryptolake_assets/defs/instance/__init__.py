"""What the graph does with Dagster's own instance: its records, its queue, its runs."""
