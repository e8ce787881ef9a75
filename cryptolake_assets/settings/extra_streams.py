"""Settings of the streams in addition to the trades: which are in use, and how often Bronze ingests them."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode

from cryptolake_assets.settings.ingest import named

AUTO_STREAMS = "auto"
NO_STREAMS = "none"
EXTRA_STREAMS = ("markPrice", "forceOrder")  # accepted names; `binance.stream_types` defines the streams


class ExtraStreamSettings(BaseSettings):
    """Part of `settings.Settings`, which says where values come from."""

    extra_streams: Annotated[tuple[str, ...], NoDecode] = named(
        "CRYPTOLAKE_EXTRA_STREAMS",
        (AUTO_STREAMS,),
        "Streams beside the trades, separated by commas: `markPrice` (mark, index and funding rate by the second), "
        "`forceOrder` (liquidations); or `none`, or `auto` (what the capture holds; none when live).",
    )
    extra_streams_trigger_s: int = named(
        "CRYPTOLAKE_EXTRA_STREAMS_TRIGGER_S",
        20,
        "Seconds between two batches of those streams into Bronze.",
        ge=1,
        le=3_600,
    )

    @field_validator("extra_streams", mode="before")
    @classmethod
    def _split_streams(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("extra_streams")
    @classmethod
    def _known_streams(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in EXTRA_STREAMS]
        if unknown and value not in ((AUTO_STREAMS,), (NO_STREAMS,)):
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(EXTRA_STREAMS)}, `none` or `auto`")
        return tuple(dict.fromkeys(value))
