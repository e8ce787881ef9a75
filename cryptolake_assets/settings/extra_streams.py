"""Settings of the streams in addition to the trades: their selection, and the trigger interval in Bronze."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode

from cryptolake_assets.settings.ingest import named

AUTO_STREAMS = "auto"
NO_STREAMS = "none"
EXTRA_STREAMS = ("markPrice", "forceOrder")  # accepted names; `binance.stream_types` defines the streams


class ExtraStreamSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    extra_streams: Annotated[tuple[str, ...], NoDecode] = named(
        "CRYPTOLAKE_EXTRA_STREAMS",
        (AUTO_STREAMS,),
        "Streams in addition to the trades, separated by commas: `markPrice` (mark price, index price and funding rate "
        "per second), `forceOrder` (liquidations); or `none`, or `auto` (the streams of the capture; none when live).",
    )
    extra_streams_trigger_s: int = named(
        "CRYPTOLAKE_EXTRA_STREAMS_TRIGGER_S",
        20,
        "Seconds between micro-batches of the additional streams into Bronze.",
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
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(EXTRA_STREAMS)}, `none` or `auto`")
        return tuple(dict.fromkeys(value))
