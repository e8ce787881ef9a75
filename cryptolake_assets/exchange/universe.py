"""Which symbols and which trade stream are followed, and from which day on: settings held against the source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from cryptolake_assets.errors import StreamUnavailableError, UnknownSymbolError
from cryptolake_assets.exchange.capture import CaptureSummary, first_day, summarise
from cryptolake_assets.exchange.records import TRADE_STREAMS, TradeStreamName
from cryptolake_assets.settings import Settings, Source, TradeStream

LIVE_SYMBOLS = ("BTCUSDT", "ETHUSDT")
LIVE_START_DATE = date(2026, 1, 1)
_NAMED_IN_MESSAGES = 20


@dataclass(frozen=True)
class Subscriptions:
    """What the producer subscribes to: every symbol's trades, by one kind of stream."""

    symbols: tuple[str, ...]
    stream: TradeStreamName

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Names on the wire, such as `btcusdt@aggTrade`."""
        return tuple(f"{symbol.lower()}@{self.stream}" for symbol in self.symbols)


def resolve_subscriptions(
    settings: Settings,
    *,
    summary: CaptureSummary | None = None,
    listed_symbols: Sequence[str] | None = None,
) -> Subscriptions:
    """The subscriptions that the settings ask for.

    On the replay exchange they are held against `summary` (read from the capture's directory when not given). Live,
    symbols are held against `listed_symbols` (of exchangeInfo) where given. Raises `UnknownSymbolError`,
    `StreamUnavailableError`, and `CaptureError` when the capture cannot be read.
    """
    if settings.source is Source.REPLAY:
        return _of_capture(settings, summary or summarise(settings.replay_dir))
    symbols = settings.symbols or LIVE_SYMBOLS
    if listed_symbols is not None:
        _check_known(symbols, listed_symbols, "the exchange lists")
    return Subscriptions(symbols, "trade" if settings.trade_stream is TradeStream.TRADE else "aggTrade")


def default_start_date(settings: Settings) -> date:
    """The first partition: the setting, or the capture's first day, or 2026-01-01 when live. Reads at most the head
    of each capture file; raises `CaptureError` when there is none."""
    if settings.start_date is not None:
        return settings.start_date
    return first_day(settings.replay_dir) if settings.source is Source.REPLAY else LIVE_START_DATE


def _of_capture(settings: Settings, summary: CaptureSummary) -> Subscriptions:
    with_trades = tuple(symbol for symbol in summary.symbols if summary.trade_streams[symbol])
    symbols = settings.symbols or with_trades
    _check_known(symbols, summary.symbols, f"the capture {summary.directory} holds")
    wanted = TRADE_STREAMS if settings.trade_stream is TradeStream.AUTO else (_name(settings.trade_stream),)
    for stream in wanted:
        if symbols and all(stream in summary.trade_streams[symbol] for symbol in symbols):
            return Subscriptions(symbols, stream)
    raise StreamUnavailableError(
        f"capture: {summary.directory} does not hold {' or '.join(wanted)} frames of every symbol that is asked for "
        f"({_named(symbols) or 'none'}). It holds {_named(_holdings(summary)) or 'no trades'}. Set "
        "CRYPTOLAKE_TRADE_STREAM=auto, or CRYPTOLAKE_SYMBOLS to symbols of one stream, or another "
        "CRYPTOLAKE_REPLAY_DIR."
    )


def _name(stream: TradeStream) -> TradeStreamName:
    return "trade" if stream is TradeStream.TRADE else "aggTrade"


def _holdings(summary: CaptureSummary) -> list[str]:
    return [f"{symbol}: {' and '.join(kinds) or 'no trades'}" for symbol, kinds in summary.trade_streams.items()]


def _check_known(symbols: Sequence[str], known: Sequence[str], who: str) -> None:
    unknown = [symbol for symbol in symbols if symbol not in known]
    if unknown:
        raise UnknownSymbolError(
            f"symbols: {_named(unknown)} unknown; {who} {_named(known) or 'none'}. Correct CRYPTOLAKE_SYMBOLS."
        )


def _named(items: Iterable[str]) -> str:
    """The items joined, at most 20 of them."""
    listed = list(items)
    more = len(listed) - _NAMED_IN_MESSAGES
    return ", ".join(listed[:_NAMED_IN_MESSAGES]) + (f" and {more} more" if more > 0 else "")
