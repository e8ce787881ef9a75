"""From Kafka into Iceberg, by Spark Structured Streaming: queries, offsets, health. Imports no orchestrator."""
