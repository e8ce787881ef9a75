"""From the exchange's sockets into Kafka: connections, delivery, gaps, coverage. Imports no orchestrator."""
