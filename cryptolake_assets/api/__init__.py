"""The HTTP API: reads the lake's tables for programs and for the dashboard. No Spark, no JVM, no writes."""
