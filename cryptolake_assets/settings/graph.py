"""Settings that only the Dagster graph uses: intervals, tolerances, retention, alerts and Dagster's addresses.

A separate class, so that a change restarts the code servers and does not interrupt the stream.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from cryptolake_assets.settings.ingest import IngestSettings, named

__all__ = ["GraphSettings", "named"]


class GraphSettings(IngestSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    end_date: date | None = named(
        "CRYPTOLAKE_END_DATE",
        None,
        "Last UTC day of the partitions, YYYY-MM-DD. Empty: the last day of the capture and of the loaded archive days "
        "in a replay, today when live.",
    )
    follower_interval_s: int = named(
        "CRYPTOLAKE_FOLLOWER_INTERVAL_S", 5, "Minimum seconds between ticks of the Bronze follower sensor.", ge=1
    )
    silver_interval_s: int = named(
        "CRYPTOLAKE_SILVER_INTERVAL_S",
        90,
        "Seconds after which a Silver hour with new trades is refreshed although no further minute of it is proven "
        "complete (scaled by the replay speed).",
        ge=0,
        le=3_600,
    )
    gold_interval_min: int = named(
        "CRYPTOLAKE_GOLD_INTERVAL_MIN",
        10,
        "Minimum minutes between refreshes of the open day of Gold; a divisor of 60.",
        ge=1,
        le=30,
    )
    stream_stall_s: int = named(
        "CRYPTOLAKE_STREAM_STALL_S",
        120,
        "Seconds without a heartbeat of the Bronze stream, or without progress while its Kafka lag is not 0, until it "
        "is restarted. The check `heartbeat` warns after half of this time.",
        ge=10,
        le=3_600,
    )
    drop_ratio_limit: float = named(
        "CRYPTOLAKE_DROP_RATIO_LIMIT",
        0.05,
        "Maximum share of an hour's trades that quality rules may drop; above it the hour's candidate is rejected.",
        ge=0,
        le=1,
    )
    kline_tolerance: Decimal = named(
        "CRYPTOLAKE_KLINE_TOLERANCE",
        Decimal("0.001"),
        "Maximum relative difference in volumes and number of trades between a bar built from aggregates (`aggTrade`) "
        "and the official kline; smaller differences are listed as tolerated. Bars of single trades must be equal.",
        ge=0,
        le=1,
    )
    event_time_lag_limit_s: int = named(
        "CRYPTOLAKE_EVENT_TIME_LAG_LIMIT_S",
        300,
        "Maximum age of a symbol's newest bar in seconds of the exchange's clock, before the check `up_to_date` warns.",
        ge=1,
    )
    compaction_grace_s: int = named(
        "CRYPTOLAKE_COMPACTION_GRACE_S",
        300,
        "Minimum seconds between an hour's end, or its last new file, and its compaction in Bronze.",
        ge=0,
    )
    compaction_min_files: int = named(
        "CRYPTOLAKE_COMPACTION_MIN_FILES",
        5,
        "Minimum files of a partition for compaction; an hour of Bronze with fewer files is compacted when an hour has "
        "passed without new files.",
        ge=2,
    )
    compaction_max_hours: int = named(
        "CRYPTOLAKE_COMPACTION_MAX_HOURS", 48, "Maximum hours of Bronze to compact in one run.", ge=1
    )
    snapshot_retention_s: int = named(
        "CRYPTOLAKE_SNAPSHOT_RETENTION_S",
        3_600,
        "Seconds until a replaced snapshot of a table expires; until then it is available for readers and time travel.",
        ge=600,
    )
    snapshots_kept: int = named(
        "CRYPTOLAKE_SNAPSHOTS_KEPT", 10, "Number of newest snapshots of a table that never expire.", ge=1
    )
    orphan_retention_h: int = named(
        "CRYPTOLAKE_ORPHAN_RETENTION_H",
        72,
        "Minimum age in hours of a file without a snapshot before deletion; a writer may still commit a younger one.",
        ge=24,
    )
    small_file_bytes: int = named(
        "CRYPTOLAKE_SMALL_FILE_BYTES",
        8_388_608,
        "Size in bytes below which a data file counts as small, if its partition has another such file.",
        ge=1,
    )
    small_file_limit: int = named(
        "CRYPTOLAKE_SMALL_FILE_LIMIT",
        10_000,
        "Maximum small files of a table before a check warns; an hour of Bronze has up to 3,000 before compaction.",
        ge=1,
    )
    notify_urls: SecretStr = named(
        "CRYPTOLAKE_NOTIFY_URLS",
        SecretStr(""),
        "Notification channels for alerts, as apprise URLs separated by commas: `jsons://host/path` (a webhook), "
        "`mailtos://<user>:<password>@host?to=a@example.com` and many more. Empty: alerts are only logged.",
    )
    alert_reminder_hours: float = named(
        "CRYPTOLAKE_ALERT_REMINDER_HOURS",
        6.0,
        "Hours between repeated alerts about a partition that continues to fail.",
        gt=0,
        le=8_760,
    )
    run_retention_days: float = named(
        "CRYPTOLAKE_RUN_RETENTION_DAYS",
        7.0,
        "Retention in days of Dagster's successful runs, their logs, and superseded events of assets and checks.",
        ge=1,
        le=3_650,
    )
    failed_run_retention_days: float = named(
        "CRYPTOLAKE_FAILED_RUN_RETENTION_DAYS",
        30.0,
        "Retention in days of Dagster's failed and canceled runs, their logs, and finished backfills.",
        ge=1,
        le=3_650,
    )

    dagster_host: str = named(
        "CRYPTOLAKE_DAGSTER_HOST",
        "127.0.0.1",
        "Listen address of the Dagster webserver, which has no login: beyond loopback, put a proxy with authentication "
        "in front of it.",
    )
    dagster_port: Annotated[int, Field(ge=1, le=65535)] = named(
        "CRYPTOLAKE_DAGSTER_PORT", 3000, "Port of the Dagster webserver."
    )
    dagster_url: str = named(
        "CRYPTOLAKE_DAGSTER_URL",
        "",
        "Base URL of the Dagster webserver for parts on other machines. Empty: the local webserver.",
    )
    dagster_pages_url: str = named(
        "CRYPTOLAKE_DAGSTER_PAGES_URL",
        "",
        "Base URL of links to Dagster's pages, as reached by browsers. Empty: the same URL as for the parts.",
    )
    dagster_database: SecretStr = named(
        "CRYPTOLAKE_DAGSTER_DATABASE",
        SecretStr(""),
        "Database of Dagster's runs, events and schedules, postgresql://<user>:<password>@host:5432/database. Empty: "
        "SQLite in CRYPTOLAKE_HOME.",
    )
    code_server_host: str = named(
        "CRYPTOLAKE_CODE_SERVER_HOST",
        "",
        "Host of the code servers, for a webserver and daemon on other machines; `{part}` is replaced by the name of "
        "the code server's part. The code servers then listen on all addresses, on ports from "
        "CRYPTOLAKE_CODE_SERVER_PORT. Empty: local sockets.",
    )

    @property
    def dagster_address(self) -> str:
        """Base URL of the Dagster webserver."""
        return self.dagster_url.rstrip("/") or f"http://127.0.0.1:{self.dagster_port}"

    @property
    def dagster_pages(self) -> str:
        """Base URL of the links to Dagster's pages."""
        return self.dagster_pages_url.rstrip("/") or self.dagster_address

    @field_validator("gold_interval_min")
    @classmethod
    def _divides_an_hour(cls, value: int) -> int:
        if 60 % value:
            raise ValueError("must divide an hour: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20 or 30 minutes")
        return value
