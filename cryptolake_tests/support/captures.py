"""Write capture directories for tests from the shipped one: other symbols and days, a changed trade, hostile frames."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptolake_assets.captures.reader import CapturedFrame, read_frames
from cryptolake_assets.model.windows import MINUTE_MS

DAY_MS = 86_400_000
_ID_FIELDS = {"trade": ("t",), "aggTrade": ("a", "f", "l")}
_MAX_DECIMALS = 8


@dataclass(frozen=True)
class ChangedTrade:
    """The trade that `with_changed_trade` changed, and the bar whose high it becomes."""

    symbol: str
    window_start_ms: int
    trade_id: int
    price: str


@dataclass(frozen=True)
class HostileFrame:
    """One inserted frame. `structural`: rejected by the producer; otherwise judged by Silver's rules."""

    kind: str
    raw: str
    structural: bool


def trade_frame(
    symbol: str, trade_id: int, time_ms: int, price: str = "100.0", qty: str = "1", *, is_buyer_maker: bool = False
) -> str:
    """Return a combined-stream `trade` frame as the exchange writes it; event time equals trade time."""
    data = {"e": "trade", "E": time_ms, "T": time_ms, "s": symbol, "t": trade_id, "p": price, "q": qty}
    return _encode({"stream": f"{symbol.lower()}@trade", "data": data | {"X": "MARKET", "m": is_buyer_maker}})


def agg_trade_frame(symbol: str, agg_id: int, time_ms: int, price: str = "100.0", qty: str = "1") -> str:
    """Return a combined-stream `aggTrade` frame that stands for two trades."""
    data = {"e": "aggTrade", "E": time_ms, "s": symbol, "a": agg_id, "p": price, "q": qty, "f": agg_id * 2}
    return _encode(
        {"stream": f"{symbol.lower()}@aggTrade", "data": data | {"l": agg_id * 2 + 1, "T": time_ms, "m": False}}
    )


def depth_frame(
    symbol: str, first_id: int, final_id: int, time_ms: int, previous_id: int | None = None, kind: str = "depth@100ms"
) -> str:
    """Return a combined-stream `depthUpdate` frame with one bid and one ask; Spot's without a previous id."""
    data = {"e": "depthUpdate", "E": time_ms, "s": symbol, "U": first_id, "u": final_id}
    data |= {} if previous_id is None else {"T": time_ms, "pu": previous_id}
    data |= {"b": [["99.5", f"{final_id % 7 + 1}"]], "a": [["100.5", f"{final_id % 5 + 1}"]]}
    return _encode({"stream": f"{symbol.lower()}@{kind}", "data": data})


def mark_price_frame(symbol: str, time_ms: int, mark: str = "100.0", index: str = "99.5", rate: str = "0.0001") -> str:
    """Return a combined-stream `markPrice@1s` frame as the exchange writes it; the next funding is in one hour."""
    data = {"e": "markPriceUpdate", "E": time_ms, "s": symbol, "p": mark, "P": mark, "i": index, "r": rate}
    return _encode({"stream": f"{symbol.lower()}@markPrice@1s", "data": data | {"T": time_ms + 3_600_000}})


def force_order_frame(symbol: str, time_ms: int, side: str = "SELL", qty: str = "1", price: str = "100.0") -> str:
    """Return a combined-stream `forceOrder` frame as the exchange writes it, of a filled order."""
    order = {"s": symbol, "S": side, "o": "LIMIT", "f": "IOC", "q": qty, "p": price, "ap": price, "X": "FILLED"}
    data = {"e": "forceOrder", "E": time_ms, "o": order | {"l": qty, "z": qty, "T": time_ms}}
    return _encode({"stream": f"{symbol.lower()}@forceOrder", "data": data})


def write_capture(path: Path, frames: Iterable[tuple[int, str]]) -> Path:
    """Write (receive time in ns, frame) lines to `path`, gzipped if it ends in `.gz`; return the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{receive_time_ns} {raw}\n" for receive_time_ns, raw in frames).encode()
    path.write_bytes(gzip.compress(data, compresslevel=1, mtime=0) if path.name.endswith(".gz") else data)
    return path.parent


def shifted_capture(
    source_dir: Path,
    target_dir: Path,
    symbol_map: Mapping[str, str],
    days: int,
    id_shift: int,
    price_factor: str,
) -> Path:
    """Write a capture of other symbols on another day; return `target_dir`.

    Names are mapped, times moved by `days`, ids by `id_shift`, prices multiplied exactly. Symbols outside the map and
    the official klines are skipped.
    """
    factor = Decimal(price_factor)

    def shifted() -> Iterable[tuple[int, str]]:
        for frame in read_frames(source_dir):
            document = json.loads(frame.raw)
            data = document["data"]
            symbol = symbol_map.get(data["s"])
            if symbol is None:
                continue
            document["stream"] = f"{symbol.lower()}@{data['e']}"
            data["s"] = symbol
            data["E"] += days * DAY_MS
            data["T"] += days * DAY_MS
            for name in _ID_FIELDS[data["e"]]:
                data[name] += id_shift
            data["p"] = _plain(Decimal(data["p"]) * factor)
            yield frame.receive_time_ns + days * DAY_MS * 10**6, _encode(document)

    return write_capture(target_dir / "shifted.ndjson.gz", shifted())


def with_changed_trade(source_dir: Path, target_dir: Path) -> ChangedTrade:
    """Copy a capture and its klines; one trade in the first symbol's second full minute gets the highest price."""
    frames = list(read_frames(source_dir))
    trades = [(index, json.loads(frame.raw)["data"]) for index, frame in enumerate(frames)]
    symbol = trades[0][1]["s"]
    window_start_ms = (trades[0][1]["T"] // MINUTE_MS + 2) * MINUTE_MS
    inside = [
        (index, data)
        for index, data in trades
        if data["s"] == symbol and window_start_ms <= data["T"] < window_start_ms + MINUTE_MS
    ]
    price = _plain(max(Decimal(data["p"]) for _, data in trades if data["s"] == symbol) + 1)
    changed, data = inside[len(inside) // 2]
    document = json.loads(frames[changed].raw)
    document["data"]["p"] = price
    frames[changed] = CapturedFrame(frames[changed].receive_time_ns, _encode(document))
    _write_frames(target_dir, frames)
    _copy_klines(source_dir, target_dir)
    return ChangedTrade(symbol, window_start_ms, data["t"], price)


def with_hostile_frames(source_dir: Path, target_dir: Path) -> list[HostileFrame]:
    """Copy a capture and its klines, insert one hostile frame of each kind; return the inserted frames in order.

    They are spread over the middle of the capture; recorded frames stay unchanged.
    """
    frames = list(read_frames(source_dir))
    step = len(frames) // 40
    first_id = max(json.loads(frame.raw)["data"]["t"] for frame in frames) + 1_000_000
    hostile: list[HostileFrame] = []
    for number, kind in enumerate(_HOSTILE_KINDS):
        index = len(frames) // 4 + number * step
        neighbour = frames[index]
        inserted = _hostile(kind, neighbour.raw, first_id + number)
        frames.insert(index, CapturedFrame(neighbour.receive_time_ns, inserted.raw))
        hostile.append(inserted)
    _write_frames(target_dir, frames)
    _copy_klines(source_dir, target_dir)
    return hostile


def joined_captures(target_dir: Path, *source_dirs: Path) -> Path:
    """Write all frames of the captures in order of receive time, and their klines; return `target_dir`."""
    frames = [frame for directory in source_dirs for frame in read_frames(directory)]
    _write_frames(target_dir, sorted(frames, key=lambda frame: frame.receive_time_ns))
    for directory in source_dirs:
        _copy_klines(directory, target_dir)
    return target_dir


_CHANGED_FIELDS: dict[str, dict[str, Any]] = {
    "wrong_type": {"p": ["64000.10"]},
    "nan_price": {"p": "NaN"},
    "too_many_decimals": {"p": "64000.123456789"},
    "too_large": {"p": "99999999999999999999.1"},
    "far_future": {"E": 4_070_908_800_000, "T": 4_070_908_800_000},  # 2099-01-01
    "long_past": {"E": 1_546_300_800_000, "T": 1_546_300_800_000},  # 2019-01-01
    "negative_price": {"p": "-1.5"},
    "zero_qty": {"q": "0"},
}
_REMOVED_FIELDS = {"missing_symbol": "s", "missing_time": "T"}
_TEXT_KINDS = ("truncated_json", "not_json")
_SEMANTIC_KINDS = ("far_future", "long_past", "negative_price", "zero_qty")
_HOSTILE_KINDS = (*_TEXT_KINDS, *_REMOVED_FIELDS, *_CHANGED_FIELDS)


def _hostile(kind: str, neighbour: str, trade_id: int) -> HostileFrame:
    if kind == "truncated_json":
        return HostileFrame(kind, neighbour[: len(neighbour) // 2], structural=True)
    if kind == "not_json":
        return HostileFrame(kind, "<html>502 Bad Gateway</html>", structural=True)
    document = json.loads(neighbour)
    document["data"] |= {"t": trade_id} | _CHANGED_FIELDS.get(kind, {})
    document["data"].pop(_REMOVED_FIELDS.get(kind), None)
    return HostileFrame(kind, _encode(document), structural=kind not in _SEMANTIC_KINDS)


def _write_frames(directory: Path, frames: Iterable[CapturedFrame]) -> None:
    write_capture(directory / "capture.ndjson.gz", ((frame.receive_time_ns, frame.raw) for frame in frames))


def _copy_klines(source_dir: Path, target_dir: Path) -> None:
    for path in source_dir.glob("*.csv"):
        shutil.copy(path, target_dir / path.name)


def _encode(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def _plain(value: Decimal) -> str:
    """Return fixed-point text; reject numbers with more decimals than the exchange sends."""
    text = format(value, "f")
    if len(text.partition(".")[2].rstrip("0")) > _MAX_DECIMALS:
        raise ValueError(f"{text} has more than {_MAX_DECIMALS} decimals: choose another price factor")
    integer, _, fraction = text.partition(".")
    return f"{integer}.{fraction[:_MAX_DECIMALS]}" if fraction else integer
