"""How the bars of the tail compared with Silver's since the API started, from its metrics."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from cryptolake_assets.live.settlement import SettledOutcome
from cryptolake_assets.model.markets import Family
from cryptolake_assets.quality.bar_checks import LIVE_BARS
from cryptolake_assets.quality.candidate_checks import CheckOutcome
from cryptolake_assets.settings import Settings

SETTLED_BARS = "cryptolake_api_settled_bars"  # counter with the labels `family` and `outcome`
TIMEOUT_S = 5.0


def check_live_bars(settings: Settings) -> CheckOutcome:
    """Check that no bar of the tail differed from Silver's without a known cause."""
    counts = settled_counts(settings, settings.venue.family)
    if counts is None:
        return CheckOutcome(LIVE_BARS, True, "nothing to compare: the API does not respond, or rejects the key")
    unexplained = counts.get(SettledOutcome.UNEXPLAINED, 0)
    text = f"{unexplained} of {sum(counts.values())} bars differ without a known cause since the API started"
    return CheckOutcome(LIVE_BARS, unexplained == 0, text, counts={each: counts[each] for each in counts})


def settled_counts(settings: Settings, family: Family) -> dict[SettledOutcome, int] | None:
    """Return the number of compared bars by outcome; None if the API does not respond, or rejects the key.

    The key is that of the dashboard.
    """
    key = settings.dashboard_api_key.get_secret_value()
    try:
        response = httpx.get(
            f"{settings.api_url}/metrics", headers={"X-API-Key": key} if key else {}, timeout=TIMEOUT_S, trust_env=False
        )
        response.raise_for_status()
    except httpx.HTTPError:
        return None
    return {
        SettledOutcome(sample.labels["outcome"]): int(sample.value)
        for metric in text_string_to_metric_families(response.text)
        for sample in metric.samples
        if sample.name == f"{SETTLED_BARS}_total" and sample.labels["family"] == family
    }
