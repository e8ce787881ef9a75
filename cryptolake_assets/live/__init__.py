"""The Kafka tail as bars: trades that Silver does not contain yet. Does not import Dagster."""
