"""All settings of CryptoLake, in one typed class.

Values come from the environment first, then from `.env` in the project's root, then from the defaults here. Values
derived from settings (topic names, directories, URLs) are properties of the class.
"""

from __future__ import annotations

import math
import os
from datetime import date
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from cryptolake_assets.errors import SettingsError
from cryptolake_assets.model.markets import VENUES, Family, Market
from cryptolake_assets.model.symbol_selection import check_items, items_of, items_of_text, markets_in, split_items
from cryptolake_assets.settings.api import ApiSettings
from cryptolake_assets.settings.exchange import ExchangeSettings
from cryptolake_assets.settings.extra_streams import ExtraStreamSettings
from cryptolake_assets.settings.graph import GraphSettings, named
from cryptolake_assets.settings.lake import LakeSettings
from cryptolake_assets.settings.platform import PlatformSettings
from cryptolake_assets.settings.producer import ProducerSettings
from cryptolake_assets.settings.replay import ReplaySettings, market_directories

PACKAGE_DIR = Path(__file__).resolve().parent.parent
PROJECT_ROOT = PACKAGE_DIR.parent
DEMO_CAPTURE_DIR = PACKAGE_DIR / "captures" / "demo_capture"


class Profile(StrEnum):
    """Deployment of the platform. A profile only selects defaults."""

    LOCAL = "local"
    CLUSTER = "cluster"


class Source(StrEnum):
    """Exchange that the producer connects to."""

    REPLAY = "replay"
    BINANCE = "binance"


class TradeStream(StrEnum):
    """Subscribed trade stream; each of the two has its own sequence of ids."""

    AUTO = "auto"
    AGG_TRADE = "aggTrade"
    TRADE = "trade"


class Engine(StrEnum):
    """Engine that computes Silver and Gold."""

    AUTO = "auto"
    DUCKDB = "duckdb"
    SPARK = "spark"


class Settings(
    PlatformSettings,
    ApiSettings,
    GraphSettings,
    LakeSettings,
    ExtraStreamSettings,
    ProducerSettings,
    ExchangeSettings,
    ReplaySettings,
):
    """All settings; see `.env.example` for the same list with its defaults."""

    model_config = SettingsConfigDict(
        env_file=PROJECT_ROOT / ".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    profile: Profile = named(
        "CRYPTOLAKE_PROFILE",
        Profile.LOCAL,
        "Deployment: `local` (all parts on this machine) or `cluster` (your Kafka, Spark, catalog and object store).",
    )
    home: Path = named(
        "CRYPTOLAKE_HOME",
        PROJECT_ROOT / ".cryptolake",
        "Directory of all state: warehouse, catalog, broker data, logs. Relative paths start at the project's root.",
    )
    source: Source = named(
        "CRYPTOLAKE_SOURCE",
        Source.REPLAY,
        "Exchange: `replay` (the replay exchange, with recorded data) or `binance` (the live exchange).",
    )
    symbols: Annotated[tuple[str, ...], NoDecode] = named(
        "CRYPTOLAKE_SYMBOLS",
        (),
        "Tracked symbols, separated by commas: names, patterns (`*USDC`), or the top N by volume (`top:50`). Those of "
        "several markets: `usdm:BTCUSDT,ETHUSDT;spot:top:20`; without a market, they are of the first one. Empty: all "
        "symbols of the capture, or BTC and ETH when live.",
    )
    trade_stream: TradeStream = named(
        "CRYPTOLAKE_TRADE_STREAM",
        TradeStream.AUTO,
        "Trade stream: `aggTrade`, `trade`, or `auto` (the stream of the capture; `aggTrade` when live).",
    )
    replay_dir: Path = named(
        "CRYPTOLAKE_REPLAY_DIR",
        DEMO_CAPTURE_DIR,
        "Directory of the captures for the replay exchange; those of several markets are in its subdirectories `usdm`, "
        "`spot` and `coinm`. Relative paths start at the project's root.",
    )
    exchange_ws_url: str = named(
        "CRYPTOLAKE_EXCHANGE_WS_URL",
        "",
        "WebSocket base URL of the exchange; with several markets, `/usdm`, `/spot` or `/coinm` follows. Empty: that "
        "of the replay exchange, or of Binance when live.",
    )
    exchange_rest_url: str = named(
        "CRYPTOLAKE_EXCHANGE_REST_URL",
        "",
        "REST base URL of the exchange. Empty: that of the replay exchange, or of Binance when live.",
    )
    archive_base_url: str = named(
        "CRYPTOLAKE_ARCHIVE_URL",
        "",
        "Base URL of the public archive. Empty: that of the replay exchange, or of Binance when live.",
    )
    start_date: date | None = named(
        "CRYPTOLAKE_START_DATE",
        None,
        "First UTC day of the partitions, YYYY-MM-DD. Empty: the capture's first day, or 2026-01-01 when live.",
    )
    watermark_grace_ms: int = named(
        "CRYPTOLAKE_WATERMARK_GRACE_MS",
        2_000,
        "Delay of the watermark after the exchange's clock in milliseconds, for late-arriving trades.",
        ge=0,
        le=3_600_000,
    )
    coverage_interval_s: float = named(
        "CRYPTOLAKE_COVERAGE_INTERVAL_S",
        5.0,
        "Seconds between writes of the producer's coverage to ops.stream_coverage; it is also written when a minute of "
        "the exchange has ended.",
        gt=0,
        le=3_600,
    )
    engine: Engine = named(
        "CRYPTOLAKE_ENGINE",
        Engine.AUTO,
        "Engine for Silver and Gold: `duckdb` (in process), `spark`, or `auto` (DuckDB in the profile `local`, Spark "
        "in `cluster`).",
    )

    log_level: str = named(
        "CRYPTOLAKE_LOG_LEVEL",
        "INFO",
        "Minimum log level: DEBUG, INFO, WARNING or ERROR.",
        pattern=r"^(DEBUG|INFO|WARNING|ERROR)$",
    )

    @field_validator(
        "home", "replay_dir", "symbols_file", "kafka_ssl_ca_file", "kafka_ssl_cert_file", "kafka_ssl_key_file"
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else (PROJECT_ROOT / value.expanduser()).resolve()

    @field_validator("symbols", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_items(value) if isinstance(value, str) else value

    @field_validator("api_cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
        return value

    @field_validator("symbols")
    @classmethod
    def _symbol_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_items(value)
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _default_market(self) -> Settings:
        # Without a choice, a replay tracks the markets of its capture. Children get them by `environment`.
        if not self.markets and "market" not in self.model_fields_set and self.source is Source.REPLAY:
            object.__setattr__(self, "markets", tuple(market_directories(self.replay_dir)))
        object.__setattr__(self, "market", self.tracked_markets[0])
        unknown = markets_in(self.symbols) - set(self.tracked_markets)
        if unknown:
            raise ValueError(
                f"CRYPTOLAKE_SYMBOLS names the market {sorted(unknown)[0]}, which is not tracked; add it to "
                "CRYPTOLAKE_MARKETS"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        seen: dict[int, str] = {}
        for field in PORT_FIELDS:
            port = getattr(self, field)
            if port in seen:
                raise ValueError(f"{env_name(field)} and {env_name(seen[port])} are both {port}; set different ports")
            seen[port] = field
        return self

    # Values derived from the settings above.

    def of_market(self, market: Market) -> Settings:
        """Return these settings as seen by one market: its venue, tables, topics and symbols.

        Code of one market or family takes such settings; those of the platform are of the default market.
        """
        if market is self.market:
            return self
        return self.model_copy(update={"market": market, "markets": self.tracked_markets})

    def of_family(self, family: Family) -> Settings:
        """Return the settings of a family's first tracked market, or of its first market if none is tracked."""
        markets = (*self.tracked_markets, *reversed(VENUES))
        return self.of_market(next(market for market in markets if VENUES[market].family is family))

    @property
    def each_market(self) -> tuple[Settings, ...]:
        """The settings of each tracked market."""
        return tuple(map(self.of_market, self.tracked_markets))

    @property
    def each_family(self) -> tuple[Settings, ...]:
        """The settings of each family with a tracked market."""
        return tuple(map(self.of_family, self.families))

    @property
    def symbol_items(self) -> tuple[str, ...]:
        """The items of the market's symbol selection. Raises the errors of `all_symbol_items`."""
        return items_of(self.all_symbol_items, self.market, is_first=self.market is self.tracked_markets[0])

    @property
    def all_symbol_items(self) -> tuple[str, ...]:
        """The items of all markets, from the symbols file if configured. Raises `SettingsError`."""
        if self.symbols_file is None:
            return self.symbols
        try:
            return items_of_text(self.symbols_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"settings: the symbols in {self.symbols_file} cannot be read ({error}). Correct the file, or "
                "CRYPTOLAKE_SYMBOLS_FILE."
            ) from error

    @property
    def engine_in_use(self) -> Engine:
        """The configured engine, with `auto` resolved."""
        if self.engine is not Engine.AUTO:
            return self.engine
        return Engine.DUCKDB if self.profile is Profile.LOCAL else Engine.SPARK

    @property
    def clock_factor(self) -> float:
        """Maximum seconds of the exchange's clock per second of this machine's: more than 1 in a fast replay."""
        if self.source is Source.BINANCE:
            return 1.0
        return max(1.0, self.replay_speed) if self.replay_speed else math.inf

    @property
    def silver_interval_in_use_s(self) -> float:
        """Seconds until an hour is refreshed without a further proven minute, on our clock."""
        return self.silver_interval_s / self.clock_factor

    @property
    def event_time_lag_limit_in_use_s(self) -> float:
        """Event-time lag limit in seconds of the exchange's clock, which runs faster than ours in a fast replay."""
        return self.event_time_lag_limit_s * self.clock_factor

    @property
    def archive_url(self) -> str:
        """Base URL of the public archive, without `/data/…`."""
        if self.archive_base_url:
            return self.archive_base_url.rstrip("/")
        live = self.source is Source.BINANCE
        return "https://data.binance.vision" if live else f"http://{self.replay_address}"

    @property
    def archive_dir(self) -> Path:
        """Directory of archive files during download and load."""
        return self.home / "archive"

    @property
    def topic_trades(self) -> str:
        """The topic of the trades of the market's family."""
        return self.kafka_topic_spot if self.venue.family is Family.SPOT else self.kafka_topic_futures

    @property
    def topic_rejected(self) -> str:
        """The dead-letter topic of the market's family."""
        return f"{self.topic_trades}_rejected"

    @property
    def ws_url(self) -> str:
        """WebSocket base URL, without the path of the market's streams.

        If several markets share an address, it ends in the market, because Spot and COIN-M have the same paths.
        """
        shared = self.exchange_ws_url.rstrip("/")
        if not shared and self.source is Source.BINANCE:
            return self.venue.ws_base_url
        address = shared or f"ws://{self.replay_address}"
        return f"{address}/{self.market}" if len(self.tracked_markets) > 1 else address

    @property
    def rest_url(self) -> str:
        """REST base URL, without the path of the market's interface."""
        if self.exchange_rest_url:
            return self.exchange_rest_url.rstrip("/")
        return self.venue.rest_base_url if self.source is Source.BINANCE else f"http://{self.replay_address}"

    @property
    def fear_greed_base_url(self) -> str:
        return self._batch_url(self.fear_greed_url, "https://api.alternative.me", "")

    @property
    def coingecko_base_url(self) -> str:
        return self._batch_url(self.coingecko_url, "https://api.coingecko.com/api/v3", "/api/v3")

    def _batch_url(self, configured: str, live: str, replay_path: str) -> str:
        """Return the base URL of a batch source; the replay exchange serves all batch sources itself."""
        if configured:
            return configured.rstrip("/")
        return live if self.source is Source.BINANCE else f"{self.rest_url}{replay_path}"

    @property
    def warehouse_location(self) -> str:
        """Location of the tables: `file://` and an absolute path, or the setting's URL (`s3://…`).

        The path is not percent-encoded, because Hadoop's and PyIceberg's file systems do not decode it.
        """
        return _location(self.warehouse) or _location(str(self.home / "warehouse"))

    @property
    def checkpoint_location(self) -> str:
        """Location of the Bronze stream's checkpoints, by default in the warehouse."""
        return _location(self.checkpoints) or f"{self.warehouse_location}/_checkpoints"

    def namespace_location_of(self, namespace: str) -> str | None:
        """Return the location of a namespace's tables; None: the catalog's default."""
        return _location(self.namespace_location.replace("{namespace}", namespace)) or None

    @property
    def uses_s3(self) -> bool:
        """Return whether the lake stores any file in an S3 store."""
        locations = (self.warehouse, self.checkpoints, self.namespace_location)
        return bool(self.minio_endpoint) or any(one.startswith(("s3://", "s3a://")) for one in locations)

    def follower_location(self, stream: str = "") -> str:
        """Return the location of a follower's cursor copy, next to the checkpoints; default: the trades' follower."""
        base = _location(self.checkpoints) or self.warehouse_location
        return f"{base}/_follower/{f'{stream}.' if stream else ''}cursor.json"

    @property
    def catalog_db(self) -> Path:
        """The SQLite catalog's file."""
        return self.home / "catalog" / "catalog.db"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def log_dir(self) -> Path:
        return self.home / "logs"

    @property
    def run_dir(self) -> Path:
        """Directory of generated configuration, locks and status files of the running parts."""
        return self.home / "run"

    @property
    def lib_dir(self) -> Path:
        """Directory of the jars and the JVM's trust store, shared by all homes of this checkout."""
        return PROJECT_ROOT / ".venv" / "cryptolake"

    def environment(self) -> dict[str, str]:
        """Return all settings as environment variables, so that a child process reads the same settings."""
        variables: dict[str, str] = {}
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif isinstance(value, tuple):
                value = ",".join(value)
            variables[env_name(field)] = "" if value is None else str(value)
        return variables


def _location(text: str) -> str:
    """Return a location as tables store it: `file://` and an absolute path, or an unchanged URL; empty stays empty."""
    if not text or "://" in text:
        return text.rstrip("/")
    return f"file://{(PROJECT_ROOT / text).resolve()}"


PORT_FIELDS = tuple(name for name in Settings.model_fields if name.endswith("_port"))


def env_name(field: str) -> str:
    """Return the environment variable of a field of `Settings`."""
    return str(Settings.model_fields[field].validation_alias)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the process's settings, read once. Raises the same `SettingsError` as `load_settings`."""
    return load_settings()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` (by field name) take precedence over the environment.

    Raises `SettingsError` naming each invalid variable and the expected value.
    """
    try:
        return Settings(**{env_name(field): value for field, value in overrides.items()})
    except ValidationError as error:
        problems = []
        for item in error.errors():
            message = item["msg"].removeprefix("Value error, ")
            name = ".".join(str(part) for part in item["loc"])
            given = os.environ.get(name, item["input"])
            problems.append(f"{name}: {message} (given: {given!r})" if name else message)
        raise SettingsError("; ".join(problems)) from None
