"""Settings of the streams in addition to the trades: their selection, and the trigger interval in Bronze."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode

from cryptolake_assets.settings.ingest import named

AUTO_STREAMS = "auto"
NO_STREAMS = "none"
EXTRA_STREAMS = (
    "markPrice",
    "forceOrder",
    "depth",
    "bookTicker",
)  # accepted names; `binance.stream_types` defines the streams


class ExtraStreamSettings(BaseSettings):
    """Part of `settings.Settings`, which documents the sources of values."""

    extra_streams: Annotated[tuple[str, ...], NoDecode] = named(
        "CRYPTOLAKE_EXTRA_STREAMS",
        (AUTO_STREAMS,),
        "Streams in addition to the trades, separated by commas: `markPrice` (mark price, index price and funding rate "
        "per second), `forceOrder` (liquidations), `depth` (order books), `bookTicker` (best prices); or `none`, or "
        "`auto` (the streams of the capture except order books and best prices; none when live).",
    )
    extra_streams_trigger_s: int = named(
        "CRYPTOLAKE_EXTRA_STREAMS_TRIGGER_S",
        20,
        "Seconds between micro-batches of the additional streams into Bronze.",
        ge=1,
        le=3_600,
    )

    depth_snapshot_levels: int = named(
        "CRYPTOLAKE_DEPTH_SNAPSHOT_LEVELS",
        0,
        "Levels a side of a snapshot of an order book. 0: the market's maximum (5,000 on Spot, 1,000 on futures). More "
        "levels make the known price range wider, and cost more of the exchange's request weight.",
        ge=0,
        le=5_000,
    )
    depth_snapshot_interval_s: int = named(
        "CRYPTOLAKE_DEPTH_SNAPSHOT_INTERVAL_S",
        600,
        "Seconds between two snapshots of a symbol's order book. In addition, one is requested at the start and after "
        "each missing update.",
        ge=10,
        le=86_400,
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
