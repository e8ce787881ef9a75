"""The Dagster graph: assets, checks, partitions, sensors and resources."""

import warnings

from dagster import BetaWarning

# Used knowingly; every load of the code location would say it again.
warnings.filterwarnings("ignore", r"Parameter `backfill_policy`", BetaWarning)
