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
    """Part of `settings.Settings`, which says where values come from."""

    end_date: date | None = named(
        "CRYPTOLAKE_END_DATE",
        None,
        "Last partition, as YYYY-MM-DD. Empty: the last day of the capture and of the loaded archive in a replay, "
        "today when live.",
    )
    follower_interval_s: int = named(
        "CRYPTOLAKE_FOLLOWER_INTERVAL_S", 5, "Seconds between two ticks of the sensor that follows Bronze.", ge=1
    )
    silver_interval_s: int = named(
        "CRYPTOLAKE_SILVER_INTERVAL_S",
        60,
        "Least seconds between two refreshes of one hour of Silver; in a faster replay as many of the exchange's time.",
        ge=0,
        le=3_600,
    )
    gold_interval_min: int = named(
        "CRYPTOLAKE_GOLD_INTERVAL_MIN",
        5,
        "Minutes of the clock in which the open day of Gold is refreshed at most once.",
        ge=1,
        le=30,
    )
    stream_stall_s: int = named(
        "CRYPTOLAKE_STREAM_STALL_S",
        120,
        "Seconds without a sign of life of the Bronze stream, or without progress while Kafka holds more, after which "
        "it is restarted. Half of it makes its heartbeat warn.",
        ge=10,
        le=3_600,
    )
    drop_ratio_limit: float = named(
        "CRYPTOLAKE_DROP_RATIO_LIMIT",
        0.05,
        "Largest share of an hour's trades that the quality rules may drop before the hour is held back.",
        ge=0,
        le=1,
    )
    kline_tolerance: Decimal = named(
        "CRYPTOLAKE_KLINE_TOLERANCE",
        Decimal("0.001"),
        "Largest relative difference in volumes and trades between a bar made of aggregates (`aggTrade`) and the "
        "official kline; differences within it are listed all the same. Bars of single trades are held to every digit.",
        ge=0,
        le=1,
    )
    event_time_lag_limit_s: int = named(
        "CRYPTOLAKE_EVENT_TIME_LAG_LIMIT_S",
        300,
        "Seconds that a symbol's newest bar may be behind the exchange's clock before a check warns.",
        ge=1,
    )
    compaction_grace_s: int = named(
        "CRYPTOLAKE_COMPACTION_GRACE_S",
        300,
        "Seconds after its end, and after its last new file, from which an hour of Bronze may be compacted.",
        ge=0,
    )
    compaction_min_files: int = named(
        "CRYPTOLAKE_COMPACTION_MIN_FILES",
        5,
        "Files from which a partition is compacted; an hour of Bronze with fewer waits until nothing came for one.",
        ge=2,
    )
    compaction_max_hours: int = named(
        "CRYPTOLAKE_COMPACTION_MAX_HOURS", 48, "Most hours of Bronze that one run compacts.", ge=1
    )
    snapshot_retention_s: int = named(
        "CRYPTOLAKE_SNAPSHOT_RETENTION_S",
        3_600,
        "Seconds for which a table's state stays readable after it was replaced: for readers, and for time travel.",
        ge=600,
    )
    snapshots_kept: int = named(
        "CRYPTOLAKE_SNAPSHOTS_KEPT", 10, "Newest snapshots of a table that stay however old they are.", ge=1
    )
    orphan_retention_h: int = named(
        "CRYPTOLAKE_ORPHAN_RETENTION_H",
        72,
        "Hours for which a file that no snapshot needs stays: a writer may be about to commit it.",
        ge=24,
    )
    small_file_bytes: int = named(
        "CRYPTOLAKE_SMALL_FILE_BYTES",
        8_388_608,
        "A data file is small below this many bytes, if its partition has another such file.",
        ge=1,
    )
    small_file_limit: int = named(
        "CRYPTOLAKE_SMALL_FILE_LIMIT",
        10_000,
        "Small files of a table from which a check warns; an hour of Bronze has up to 3,000 before it is compacted.",
        ge=1,
    )
    notify_urls: SecretStr = named(
        "CRYPTOLAKE_NOTIFY_URLS",
        SecretStr(""),
        "Where alerts go, as apprise URLs separated by commas: `jsons://host/path` (a webhook), "
        "`mailtos://<user>:<password>@host?to=a@example.com` and many more. Empty: the log only.",
    )
    alert_reminder_hours: float = named(
        "CRYPTOLAKE_ALERT_REMINDER_HOURS",
        6.0,
        "Hours between two alerts of a partition that goes on failing.",
        gt=0,
        le=8_760,
    )
    run_retention_days: float = named(
        "CRYPTOLAKE_RUN_RETENTION_DAYS",
        7.0,
        "Days for which Dagster keeps runs that succeeded, their logs, and superseded events of assets and checks.",
        ge=1,
        le=3_650,
    )
    failed_run_retention_days: float = named(
        "CRYPTOLAKE_FAILED_RUN_RETENTION_DAYS",
        30.0,
        "Days for which Dagster keeps runs that failed or were cancelled, their logs, and finished backfills.",
        ge=1,
        le=3_650,
    )

    dagster_host: str = named(
        "CRYPTOLAKE_DAGSTER_HOST",
        "127.0.0.1",
        "Address that the Dagster webserver listens on. It asks nobody for a password: beyond loopback put a proxy "
        "before it that does.",
    )
    dagster_port: Annotated[int, Field(ge=1, le=65535)] = named(
        "CRYPTOLAKE_DAGSTER_PORT", 3000, "Port of the Dagster webserver."
    )
    dagster_url: str = named(
        "CRYPTOLAKE_DAGSTER_URL",
        "",
        "Base URL of the Dagster webserver, where the other parts are on other machines. Empty: the local one.",
    )
    dagster_pages_url: str = named(
        "CRYPTOLAKE_DAGSTER_PAGES_URL",
        "",
        "Base URL of Dagster's pages as people's browsers reach it, for links. Empty: the same as the parts use.",
    )
    dagster_database: SecretStr = named(
        "CRYPTOLAKE_DAGSTER_DATABASE",
        SecretStr(""),
        "Where Dagster keeps runs, events and schedules, postgresql://<user>:<password>@host:5432/database. Empty: "
        "SQLite under CRYPTOLAKE_HOME.",
    )
    code_server_host: str = named(
        "CRYPTOLAKE_CODE_SERVER_HOST",
        "",
        "Host of the code servers, where webserver and daemon are on other machines; `{part}` in it is the name of "
        "each one's part. They then listen on all addresses, from CRYPTOLAKE_CODE_SERVER_PORT on. Empty: on sockets of "
        "this machine.",
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
            raise ValueError("minutes of the clock that divide an hour are needed: 1, 2, 3, 5, 10, 15, 20 or 30")
        return value
