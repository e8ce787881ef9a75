"""Resolve the settings against the source: tracked symbols, streams, and the first and last day."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path

from cryptolake_assets.binance.stream_type import StreamType
from cryptolake_assets.binance.stream_types import EXTRA_STREAM_TYPES, TRADES_OF_FAMILY
from cryptolake_assets.captures.market_of_capture import capture_directory, captured_markets
from cryptolake_assets.captures.reader import CaptureSummary, first_day, last_day, summarise
from cryptolake_assets.errors import SettingsError, StreamUnavailableError, UnknownSymbolError
from cryptolake_assets.model.exchange_records import TRADE_STREAMS, TradeStreamName
from cryptolake_assets.model.symbol_selection import TRADING, ListedSymbol, SymbolSelection, parse_selection
from cryptolake_assets.model.symbols import stream_name
from cryptolake_assets.settings import Settings, Source, TradeStream
from cryptolake_assets.settings.extra_streams import AUTO_STREAMS

LIVE_START_DATE = date(2026, 1, 1)
_MAX_ITEMS_IN_MESSAGE = 20


@dataclass(frozen=True)
class Subscriptions:
    """The producer's trade subscriptions: all symbols, one kind of trade stream."""

    symbols: tuple[str, ...]
    stream: TradeStreamName

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Stream names, such as `btcusdt@aggTrade`."""
        return tuple(stream_name(symbol, self.stream) for symbol in self.symbols)


@dataclass(frozen=True)
class Listing:
    """The exchange's listed symbols; `volumes` are 24-hour quote volumes."""

    symbols: Sequence[ListedSymbol]
    volumes: Mapping[str, Decimal] = field(default_factory=dict)


def resolve_subscriptions(
    settings: Settings,
    *,
    summary: CaptureSummary | None = None,
    listing: Listing | None = None,
    tracked: Collection[str] = (),
) -> Subscriptions:
    """Return the subscriptions of the settings' market; `tracked` are its currently tracked symbols.

    In a replay, symbols are checked against `summary` (read from the market's captures if not given). Live, symbols are
    checked against `listing` if given; without it, only symbols selected by name are known. Raises
    `UnknownSymbolError`, `StreamUnavailableError`, `SettingsError`, and `CaptureError` if the capture is unreadable or
    lacks the market.
    """
    selection = parse_selection(settings.symbol_items)
    if selection.busiest and not settings.venue.klines_count_quote:
        raise SettingsError(
            f"symbols: {settings.venue.title} reports no quote volume to rank symbols by. Use names or patterns."
        )
    if settings.source is Source.REPLAY:
        summary = summary or summarise(capture_directory(settings), settings.run_dir)
        return _from_capture(settings, selection, summary, listing, tracked)
    symbols: tuple[str, ...] = settings.venue.live_symbols
    if selection != SymbolSelection():
        symbols = selection.resolve(listing.symbols, listing.volumes, tracked) if listing else selection.names
    if listing is not None:
        _check_known(symbols, [entry.symbol for entry in listing.symbols], "the exchange lists")
        _check_not_empty(symbols, settings.symbol_items, "listed by the exchange")
    return Subscriptions(symbols, "trade" if settings.trade_stream is TradeStream.TRADE else "aggTrade")


def default_start_date(settings: Settings) -> date:
    """Return the first partition: the setting, else the capture's first day, or 2026-01-01 when live.

    It is the same for all tracked markets. Reads at most the head of each capture file. Raises `CaptureError` if there
    is no capture.
    """
    if settings.start_date is not None:
        return settings.start_date
    return min(map(first_day, _captures(settings))) if settings.source is Source.REPLAY else LIVE_START_DATE


def default_end_date(settings: Settings) -> date | None:
    """Return the last partition: the setting, else the capture's last day; None when live without the setting.

    In a replay, it is extended to the last loaded archive day. Raises `CaptureError` if there is no capture.
    """
    if settings.source is not Source.REPLAY:
        return settings.end_date
    end = settings.end_date or last_day(_captures(settings), settings.run_dir)
    return max(end, last_archived_day(settings) or end)


def _captures(settings: Settings) -> list[Path]:
    """Return the capture directories of the tracked markets; of all markets if it has none of them."""
    found = captured_markets(settings.replay_dir)
    tracked = [path for market, path in found.items() if market in settings.tracked_markets]
    return tracked or list(found.values())


def last_archived_day(settings: Settings) -> date | None:
    """Return the last archive day loaded into a replay's lake; None if none was."""
    try:
        return date.fromisoformat(_last_archived_day_path(settings).read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        return None


def store_last_archived_day(settings: Settings, day: date) -> None:
    """Store `day` as the last archive day if it is later (replay only)."""
    if settings.source is Source.REPLAY and day > (last_archived_day(settings) or date.min):
        _last_archived_day_path(settings).write_text(day.isoformat(), encoding="utf-8")


def _last_archived_day_path(settings: Settings) -> Path:
    return settings.home / "archived-to"


def _from_capture(
    settings: Settings,
    selection: SymbolSelection,
    summary: CaptureSummary,
    listing: Listing | None,
    tracked: Collection[str],
) -> Subscriptions:
    streams = TRADE_STREAMS if settings.trade_stream is TradeStream.AUTO else (_name(settings.trade_stream),)
    if selection == SymbolSelection():
        return _all_captured(summary, streams)
    with_trades = tuple(symbol for symbol in summary.symbols if summary.trade_streams[symbol])
    listed = [_CapturedSymbol(symbol) for symbol in with_trades] if listing is None else listing.symbols
    symbols = selection.resolve(listed, listing.volumes if listing else {}, tracked)
    _check_known(symbols, summary.symbols, f"the capture {summary.directory} contains")
    if listing is not None or not selection.busiest:
        _check_not_empty(symbols, settings.symbol_items, f"in the capture {summary.directory}")
    for stream in streams:
        if symbols and all(stream in summary.trade_streams[symbol] for symbol in symbols):
            return Subscriptions(symbols, stream)
    raise _unavailable(summary, symbols, streams)


def _all_captured(summary: CaptureSummary, streams: Sequence[TradeStreamName]) -> Subscriptions:
    """Subscribe to all symbols of the trade stream that most symbols have.

    For a capture without trade streams, subscribe to all of its symbols; no trades will arrive.
    """
    by_stream = {
        stream: tuple(symbol for symbol in summary.symbols if stream in summary.trade_streams[symbol])
        for stream in streams
    }
    stream = max(streams, key=lambda name: len(by_stream[name]))
    symbols = by_stream[stream] if any(summary.trade_streams.values()) else summary.symbols
    if not symbols:
        raise _unavailable(summary, symbols, streams)
    return Subscriptions(symbols, stream)


def _unavailable(
    summary: CaptureSummary, symbols: Sequence[str], streams: Sequence[TradeStreamName]
) -> StreamUnavailableError:
    return StreamUnavailableError(
        f"capture: {summary.directory} does not contain {' or '.join(streams)} frames of all requested symbols "
        f"({_joined(symbols) or 'none'}). It contains {_joined(_streams_by_symbol(summary)) or 'no trades'}. Set "
        "CRYPTOLAKE_TRADE_STREAM=auto, or CRYPTOLAKE_SYMBOLS to symbols of one stream, or CRYPTOLAKE_REPLAY_DIR to "
        "other captures."
    )


@dataclass(frozen=True)
class _CapturedSymbol:
    """A captured symbol as a `ListedSymbol`."""

    symbol: str
    quote_asset: str = ""
    status: str = TRADING


def _name(stream: TradeStream) -> TradeStreamName:
    return "trade" if stream is TradeStream.TRADE else "aggTrade"


def _streams_by_symbol(summary: CaptureSummary) -> list[str]:
    return [f"{symbol}: {' and '.join(streams) or 'no trades'}" for symbol, streams in summary.trade_streams.items()]


def _check_known(symbols: Sequence[str], known: Sequence[str], source: str) -> None:
    unknown = [symbol for symbol in symbols if symbol not in known]
    if unknown:
        raise UnknownSymbolError(
            f"symbols: unknown symbol {_joined(unknown)}; {source} {_joined(known) or 'none'}. Correct "
            "CRYPTOLAKE_SYMBOLS."
        )


def _check_not_empty(symbols: Sequence[str], items: Sequence[str], place: str) -> None:
    if items and not symbols:
        raise UnknownSymbolError(f"symbols: {_joined(items)} matches no symbol {place}. Correct CRYPTOLAKE_SYMBOLS.")


def _joined(items: Iterable[str]) -> str:
    """Join at most 20 of the items for a message."""
    listed = list(items)
    more = len(listed) - _MAX_ITEMS_IN_MESSAGE
    return ", ".join(listed[:_MAX_ITEMS_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")


def streams_in_use(settings: Settings) -> tuple[StreamType, ...]:
    """Return the trade streams and the extra streams in use. Raises the errors of `extra_streams_in_use`."""
    return (*map(TRADES_OF_FAMILY.__getitem__, settings.families), *extra_streams_in_use(settings))


def extra_streams_in_use(settings: Settings) -> tuple[StreamType, ...]:
    """Return the extra streams of all tracked markets. Raises the errors of `extra_streams_of_market`."""
    in_use = {stream.name: stream for view in settings.each_market for stream in extra_streams_of_market(view)}
    return tuple(in_use.values())


def extra_streams_of_market(settings: Settings) -> tuple[StreamType, ...]:
    """Return the extra streams of the settings' market; with `auto`, those of the replayed capture, none when live.

    Raises `CaptureError` if the capture cannot be read.
    """
    offered = [stream_type for stream_type in EXTRA_STREAM_TYPES if settings.market in stream_type.markets]
    options: Collection[str] = settings.extra_streams
    if settings.extra_streams == (AUTO_STREAMS,):
        directory = (
            captured_markets(settings.replay_dir).get(settings.market) if settings.source is Source.REPLAY else None
        )
        names = summarise(directory, settings.run_dir).stream_names if directory else ()
        options = {
            stream_type.option
            for stream_type in offered
            if stream_type.is_automatic and any(map(stream_type.is_recorded_as, names))
        }
    return tuple(stream_type for stream_type in offered if stream_type.option in options)
