"""The HTTP API: serves the lake's tables to programs and the dashboard. No Spark, no JVM, no writes."""
