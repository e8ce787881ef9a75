"""The producer: exchange WebSockets to Kafka, with delivery, gaps and coverage. Imports no orchestrator."""
