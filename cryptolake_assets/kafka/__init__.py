"""Kafka: topics, records, access and its errors. Imports no orchestrator."""
