"""Recordings of the replay exchange over real sockets: the same frames and klines, as a capture to replay."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cryptolake_assets.captures.market_of_capture import MARKET_FILE, captured_markets
from cryptolake_assets.captures.published_files import read_klines
from cryptolake_assets.captures.reader import capture_files, read_frames, summarise
from cryptolake_assets.model.exchange_records import KLINE_HEADER
from cryptolake_assets.model.markets import Market
from cryptolake_assets.producer.connection_pool import ConnectionPoolOptions
from cryptolake_assets.producer.recorder import Recorder, add_klines
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, Settings, load_settings
from cryptolake_tests.support.fakes import until
from cryptolake_tests.support.three_markets import SYMBOLS, TRADES, copied, recorded_trades

FRAMES = 24_356
TIMEOUT_S = 120


def settings_for(exchange: ReplayExchange) -> Settings:
    return load_settings(exchange_rest_url=exchange.url, exchange_ws_url=exchange.url.replace("http", "ws"))


async def record(settings: Settings, directory: Path, frames: int, rotate_s: float = 3_600) -> Recorder:
    """Record until this many frames are written."""
    recorder, stop = Recorder(settings, directory, rotate_s), asyncio.Event()

    def stop_when_done() -> None:
        if recorder.writer is not None and recorder.writer.frames >= frames:
            stop.set()

    async with asyncio.timeout(TIMEOUT_S):
        await recorder.run(stop, stop_when_done)
    return recorder


def trades(directory: Path) -> list[str]:
    """Return the recorded trade frames, without responses to requests."""
    return [frame.raw for frame in read_frames(directory) if '"data"' in frame.raw]


async def test_recording_equals_the_capture_and_adds_official_klines(tmp_path: Path) -> None:
    async with ReplayExchange(DEMO_CAPTURE_DIR, speed=0).running() as exchange:
        settings = settings_for(exchange)
        await record(settings, tmp_path, FRAMES)
        added = await asyncio.to_thread(add_klines, settings, tmp_path)
        again = await asyncio.to_thread(add_klines, settings, tmp_path)
    assert sorted(trades(tmp_path)) == sorted(frame.raw for frame in read_frames(DEMO_CAPTURE_DIR))
    assert trades(tmp_path) == [frame.raw for frame in read_frames(DEMO_CAPTURE_DIR)]
    summary, original = summarise(tmp_path), summarise(DEMO_CAPTURE_DIR)
    assert (summary.symbols, summary.trade_streams) == (original.symbols, original.trade_streams)
    official = read_klines(DEMO_CAPTURE_DIR, "BTCUSDT", "1m")
    recorded = read_klines(tmp_path, "BTCUSDT", "1m")
    assert recorded
    assert set(recorded) <= set(official)
    assert added == len(recorded) + len(read_klines(tmp_path, "ETHUSDT", "1m"))
    assert again == 0


async def test_files_are_rotated_during_the_recording(tmp_path: Path) -> None:
    async with ReplayExchange(DEMO_CAPTURE_DIR, speed=240).running() as exchange:
        recorder = await record(settings_for(exchange), tmp_path, FRAMES, rotate_s=0.5)
    assert recorder.writer is not None
    assert recorder.writer.files == len(capture_files(tmp_path)) > 1
    assert len(trades(tmp_path)) == FRAMES
    assert json.loads(trades(tmp_path)[0])["stream"].endswith("@trade")


async def test_recording_can_be_replayed_and_recorded_again(tmp_path: Path) -> None:
    async with ReplayExchange(DEMO_CAPTURE_DIR, speed=0).running() as exchange:
        await record(settings_for(exchange), tmp_path / "first", FRAMES)
    async with ReplayExchange(tmp_path / "first", speed=0).running() as exchange:
        settings = settings_for(exchange).model_copy(update={"replay_dir": tmp_path / "first"})
        await record(settings, tmp_path / "second", FRAMES)
    assert trades(tmp_path / "second") == trades(tmp_path / "first")


async def test_several_markets_are_recorded_side_by_side(tmp_path: Path) -> None:
    expected = {market: (f"{symbol.lower()}@trade",) for market, symbol in SYMBOLS.items()}
    kline = "1723161300000,1,1,1,1,1,1723161359999,1,1,1,1,0"
    source = copied(tmp_path / "source", *SYMBOLS)
    (source / "spot" / "BTCUSDT-1m-2024-08-08.csv").write_text(f"{','.join(KLINE_HEADER)}\n{kline}\n")
    async with ReplayExchange(source, speed=0, expected_streams=expected).running() as exchange:
        settings = settings_for(exchange).model_copy(update={"replay_dir": source, "markets": tuple(SYMBOLS)})
        recorded = tmp_path / "recorded"
        recorders = await asyncio.gather(
            *(record(view, recorded, TRADES[view.market]) for view in settings.each_market)
        )
        added = [await asyncio.to_thread(add_klines, one.settings, one.directory) for one in recorders]
    assert captured_markets(recorded) == {market: recorded / market for market in Market}
    for market in Market:
        assert (recorded / market / MARKET_FILE).read_text() == f"{market}\n"
        assert trades(recorded / market) == recorded_trades(market)
    assert dict(zip(SYMBOLS, added, strict=True)) == {Market.USD_M: 0, Market.SPOT: 1, Market.COIN_M: 0}
    assert [row.open_time_ms for row in read_klines(recorded / "spot", "BTCUSDT", "1m")] == [1_723_161_300_000]


async def test_connections_are_replaced_without_missing_a_frame(tmp_path: Path) -> None:
    """Frames of an overlap are recorded twice."""
    stop = asyncio.Event()
    async with ReplayExchange(DEMO_CAPTURE_DIR, speed=240).running() as exchange, asyncio.timeout(TIMEOUT_S):
        options = ConnectionPoolOptions(life_s=0.15, connect_apart_s=0.0)
        recorder = Recorder(settings_for(exchange), tmp_path, 3_600, options)
        recording = asyncio.create_task(recorder.run(stop))
        await until(lambda: exchange.status()["state"] == "finished", timeout_s=TIMEOUT_S)
        (pool,) = recorder.pools
        await until(lambda: pool.replacements >= 3, timeout_s=TIMEOUT_S)
        for connection in list(recorder.connections):
            await connection.wait_until_handed_over()
        stop.set()
        await recording
    assert not [c for c in recorder.connections if c.reconnects]
    assert set(trades(tmp_path)) == {frame.raw for frame in read_frames(DEMO_CAPTURE_DIR)}


async def test_unwritable_directory_ends_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptolake_assets.errors import CaptureError

    (tmp_path / "file").write_text("")
    async with ReplayExchange(DEMO_CAPTURE_DIR, speed=0).running() as exchange:
        with pytest.raises(CaptureError, match="cannot be written"):
            await record(settings_for(exchange), tmp_path / "file" / "below", 1)
