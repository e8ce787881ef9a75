"""Silver and Gold runs. Imports no orchestrator."""
