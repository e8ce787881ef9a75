"""Management of Dagster's own instance: its records, pools and runs."""
