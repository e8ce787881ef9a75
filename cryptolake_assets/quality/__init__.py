"""Data quality: rules, checks, completeness, comparison with the exchange's bars. Imports no orchestrator."""
