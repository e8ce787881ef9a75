"""The Bronze stream: Kafka to Iceberg with Spark Structured Streaming, offsets, health. Imports no orchestrator."""
