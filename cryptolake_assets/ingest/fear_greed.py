"""The Fear & Greed index of alternative.me: a number from 0 to 100 per UTC day. Pure.

Source: https://alternative.me/crypto/fear-and-greed-index/ (`/fng/`). `limit=0` returns the full history, newest day
first; values and times are text.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from cryptolake_assets.captures.recorded_names import FEAR_GREED_FILE
from cryptolake_assets.errors import ResponseRejectedError
from cryptolake_assets.http.http_request import HttpRequest
from cryptolake_assets.http.json_reader import Fields, parse_json
from cryptolake_assets.ingest.batch_source import (
    BatchSource,
    ParsedResponse,
    Plan,
    RequestScope,
    Row,
    StoredKeys,
    parsed_rows,
)
from cryptolake_assets.model.source_facts import FIRST_DAY
from cryptolake_assets.model.source_tables import BRONZE_FEAR_GREED_RAW, SILVER_FEAR_GREED
from cryptolake_assets.quality.batch_checks import DAYS_MISSING, NEWEST_ROW, days_missing, newest_row

if TYPE_CHECKING:
    from cryptolake_assets.quality.candidate_checks import CheckOutcome
    from cryptolake_assets.settings import Settings

DAYS = "days"
LOWEST, HIGHEST = 0, 100
OVERLAP_DAYS = 3  # days that are requested again, in case one was corrected
_DAY_S = 86_400
_LAST_S = 253_402_300_799


class FearGreed(BatchSource):
    """The first run requests the full history, later runs the days since the newest stored one."""

    name = "fear_greed"
    title = "the Fear & Greed index"
    raw = BRONZE_FEAR_GREED_RAW
    silver = (SILVER_FEAR_GREED,)
    recorded = FEAR_GREED_FILE
    warning_checks = (DAYS_MISSING, NEWEST_ROW)
    fresh_within = timedelta(hours=26)

    def base_url(self, settings: Settings) -> str:
        return settings.fear_greed_base_url

    def calls_a_minute(self, _settings: Settings) -> int:
        return 60

    def is_available(self, settings: Settings) -> bool:
        return bool(settings.fear_greed_url) or super().is_available(settings)

    def plan(self, _settings: Settings, scope: RequestScope) -> Plan:
        return plan(scope.newest.get(""), scope.day, scope.clock.date())

    def parse(self, _endpoint: str, body: bytes, asked_at: datetime) -> ParsedResponse:
        return parse_days(body, asked_at.date())

    def warnings(self, stored: StoredKeys, scope: RequestScope) -> list[CheckOutcome]:
        days = stored.get("", ())
        return [days_missing(days), newest_row(days, scope.clock.date())]


SOURCE = FearGreed()


def plan(newest: date | None, day: date, today: date) -> Plan:
    """Request the full history if `newest` is None, else the days from the earlier of `newest` and `day` on."""
    limit = 0 if newest is None else (today - min(newest, day)).days + 1 + OVERLAP_DAYS
    yield HttpRequest("/fng/", {"limit": max(0, limit)}, endpoint=DAYS)


def parse_days(body: bytes, today: date) -> ParsedResponse:
    """Return rows of `silver.fear_greed_daily`, oldest first; a malformed day is rejected with its reason.

    Malformed days have a value outside 0 to 100, for example, or are in the future. Raises `ResponseRejectedError` for
    another shape, for an error that the source reports, and if no day can be parsed.
    """
    response = Fields(parse_json(body), "response")
    error = response.object("metadata").raw("error")
    if error is not None:
        raise ResponseRejectedError(f"the source reported an error: {str(error)[:200]}")
    days, rejected_rows = parsed_rows(
        response.array("data"), "index_date", lambda row, number: _day(Fields(row, f"data[{number}]"), today), "days"
    )
    if rejected_rows and not days:
        raise ResponseRejectedError(rejected_rows[0])
    return ParsedResponse({SILVER_FEAR_GREED.name: days}, tuple(rejected_rows))


def _day(row: Fields, today: date) -> Row:
    value, second = row.digits("value"), row.digits("timestamp")
    if not LOWEST <= value <= HIGHEST:
        raise ResponseRejectedError(f"value {value} is outside {LOWEST} to {HIGHEST}")
    if second % _DAY_S or second > _LAST_S:
        raise ResponseRejectedError(f"timestamp {second} is not the start of a UTC day")
    day = datetime.fromtimestamp(second, UTC).date()
    if not FIRST_DAY <= day <= today:
        raise ResponseRejectedError(f"day {day} is outside {FIRST_DAY} to {today}")
    return {"index_date": day, "value": value, "classification": row.text("value_classification")}
