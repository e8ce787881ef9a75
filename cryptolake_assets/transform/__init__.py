"""OHLCV, daily stats and quality rules. Imports no orchestrator."""
