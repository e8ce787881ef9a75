"""Status of parts that run under other supervisors, such as containers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cryptolake_assets.model.markets import Market
from cryptolake_assets.platform.status import problems, status
from cryptolake_assets.producer.status_file import MarketState, MarketStatus
from cryptolake_assets.replay.server import ReplayExchange
from cryptolake_assets.settings import DEMO_CAPTURE_DIR, PORT_FIELDS, Settings, load_settings
from cryptolake_tests.support.producing import report_markets
from cryptolake_tests.support.servers import free_port


def on_free_ports(home: Path, **changes: Any) -> Settings:
    """Return settings with unused ports and with Dagster on another machine."""
    fields = {field: free_port() for field in PORT_FIELDS} | changes
    return load_settings(home=home, **{"dagster_url": f"http://127.0.0.1:{free_port()}", **fields})


def states(settings: Settings) -> set[str]:
    return {row.state for row in status(settings)}


async def test_part_that_responds_under_another_supervisor_is_external(tmp_path: Path) -> None:
    async with ReplayExchange(DEMO_CAPTURE_DIR, speed=0).running() as exchange:
        settings = on_free_ports(tmp_path, exchange_port=int(exchange.url.rpartition(":")[2]))
        usdm = MarketStatus(MarketState.STREAMING, symbols=2, frames=7, queued_frames=3, stale_symbols=("ETHUSDT",))
        report_markets(settings, {Market.USD_M: usdm, Market.SPOT: MarketStatus(MarketState.WAITING)})
        rows = {row.name: row for row in await asyncio.to_thread(status, settings)}
        found = await asyncio.to_thread(problems, settings)
    producer = rows["producer"]
    assert (producer.state, producer.lag) == ("external", 3)
    assert producer.detail == (
        "streaming, 7 frames, 0 events acked, 0 rejected (usdm: 2 symbols, 7 frames; spot: waiting for exchange), "
        "stale: ETHUSDT (usdm)"
    )
    assert rows["exchange"].state == "external"
    assert rows["dashboard"].state == "unseen"
    assert not [
        line for line in found if "no part is running" in line or line.startswith(("dashboard", "producer: external"))
    ]
    assert any(line.startswith("producer: spot: the exchange does not respond.") for line in found)


def test_parts_that_do_not_respond_are_stopped(tmp_path: Path) -> None:
    settings = on_free_ports(tmp_path)
    assert states(settings) == {"stopped"}
    assert any("no part is running" in line for line in problems(settings))


def test_part_without_the_local_supervisor_is_stopped(tmp_path: Path) -> None:
    settings = on_free_ports(tmp_path, dagster_url="")
    settings.run_dir.mkdir(parents=True)
    (settings.run_dir / "producer.json").write_text("{}")
    assert states(settings) == {"stopped"}
