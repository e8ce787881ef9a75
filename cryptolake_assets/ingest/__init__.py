"""Batch ingestion into Bronze: public archive days, klines, and batch sources. Imports no orchestrator."""
