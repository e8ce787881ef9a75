"""Data quality: rules, checks, completeness, comparison with official klines. Does not import Dagster."""
