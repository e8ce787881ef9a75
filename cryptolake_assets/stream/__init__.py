"""The long-running side: producer, Kafka topics, Bronze stream and coverage. Imports no orchestrator."""
