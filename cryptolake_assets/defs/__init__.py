"""The Dagster graph: assets, checks, partitions, sensors and resources."""

import warnings

from dagster import BetaWarning

# We use the beta parameter on purpose; without the filter every load of the code location would warn.
warnings.filterwarnings("ignore", r"Parameter `backfill_policy`", BetaWarning)
