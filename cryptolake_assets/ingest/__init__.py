"""The batch ways into Bronze: days of the public archive, klines, and the batch sources. Imports no orchestrator."""
