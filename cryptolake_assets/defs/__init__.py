"""The Dagster graph: assets, checks, partitions, sensors and resources."""

import warnings

from dagster import BetaWarning

# The beta parameter is used on purpose; without the filter every load of the code location warns.
warnings.filterwarnings("ignore", r"Parameter `backfill_policy`", BetaWarning)
