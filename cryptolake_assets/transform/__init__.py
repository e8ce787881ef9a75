"""Silver and Gold runs. Does not import Dagster."""
