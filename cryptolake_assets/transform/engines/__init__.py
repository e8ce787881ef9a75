"""The engines that aggregate trades: DuckDB in this process, or Spark."""
