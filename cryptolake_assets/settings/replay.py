"""Settings of the replay exchange: address, replay speed and faults; the markets of a capture directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from cryptolake_assets.errors import SettingsError
from cryptolake_assets.model.markets import Market
from cryptolake_assets.model.replay_faults import parse_faults
from cryptolake_assets.settings.ingest import named

LOOPBACK = ("127.0.0.1", "localhost")
CAPTURE_SUFFIXES = (".ndjson", ".ndjson.gz")


def has_captures(directory: Path) -> bool:
    """Return whether the directory itself contains capture files; true if it cannot be listed."""
    try:
        return directory.is_dir() and any(path.name.endswith(CAPTURE_SUFFIXES) for path in directory.iterdir())
    except OSError:
        return True


def market_directories(directory: Path) -> dict[Market, Path]:
    """Return the subdirectories of a capture of several markets: `usdm`, `coinm`, `spot`, if they contain captures.

    Empty for a directory of one market. Only lists directories, because settings are read at every start.
    """
    return {market: directory / market for market in Market if has_captures(directory / market)}


class ReplaySettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    exchange_host: str = named(
        "CRYPTOLAKE_EXCHANGE_HOST",
        "127.0.0.1",
        "Host of the replay exchange, which has no login. If it is not loopback, the replay exchange listens on all "
        "addresses.",
    )
    exchange_port: Annotated[int, Field(ge=1, le=65535)] = named(
        "CRYPTOLAKE_EXCHANGE_PORT", 8090, "Port of the replay exchange."
    )
    replay_speed: float = named(
        "CRYPTOLAKE_REPLAY_SPEED",
        60.0,
        "Replay speed: 1 is real time, 60 is one minute per second, 0 is as fast as the client reads.",
        ge=0,
    )
    replay_faults: str = named(
        "CRYPTOLAKE_REPLAY_FAULTS",
        "",
        'Faults of the replay exchange, as JSON: `[{"kind": "drop", "share": 0.01}]`. Empty: none. See '
        "docs/fault-drills.md for all faults.",
    )

    @property
    def replay_address(self) -> str:
        """Host and port of the replay exchange."""
        return f"{self.exchange_host}:{self.exchange_port}"

    @property
    def exchange_bind_host(self) -> str:
        """Address that the replay exchange listens on."""
        return "127.0.0.1" if self.exchange_host in LOOPBACK else "0.0.0.0"  # noqa: S104 - for clients on other machines

    @field_validator("replay_faults")
    @classmethod
    def _fault_switches(cls, value: str) -> str:
        try:
            parse_faults(value)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return value
