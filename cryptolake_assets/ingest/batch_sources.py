"""The registry of batch sources. A new one is an entry of `BATCH_SOURCES`."""

from __future__ import annotations

from cryptolake_assets.ingest import coingecko, fear_greed, funding, open_interest
from cryptolake_assets.ingest.batch_source import BatchSource

BATCH_SOURCES: tuple[BatchSource, ...] = (
    fear_greed.SOURCE,
    coingecko.SOURCE,
    funding.SOURCE,
    open_interest.SOURCE,
)
