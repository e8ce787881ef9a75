"""The check of rejected frames: it fails with symbols, counts and reasons, and one alert is sent per change."""

from __future__ import annotations

import json
import time

import dagster as dg
import pytest

from cryptolake_assets.api.health_routes import DEPENDENCIES
from cryptolake_assets.bronze.stream_health import StreamSignals
from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.defs.health import evaluate
from cryptolake_assets.model.markets import Family, Market
from cryptolake_assets.platform.notify import Alert, AlertKind
from cryptolake_assets.platform.status import producer_problems
from cryptolake_assets.producer.status_file import MarketState, MarketStatus, RejectedSymbol, rejecting_problem
from cryptolake_assets.quality.bar_checks import FRAMES_ACCEPTED
from cryptolake_assets.settings import Settings
from cryptolake_tests.support.producing import report_markets

WELL = StreamSignals(table="futures_trades", state="running", report_age_s=1.0, committed=100, lag=0)


def report(settings: Settings, **rejecting: RejectedSymbol) -> None:
    """Write a producer's status; only `rejecting` of USD-M matters."""
    report_markets(settings, {Market.USD_M: MarketStatus(MarketState.STREAMING, rejecting=rejecting)})


def test_symbol_with_rejected_frames_fails_the_check_and_alerts_once(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[Alert] = []
    monkeypatch.setattr("cryptolake_assets.platform.notify.notify", lambda _, alert: alerts.append(alert))
    verdicts: list[tuple[bool, str | None]] = []
    cursor: str | None = None
    steps: list[dict[str, RejectedSymbol]] = [
        {},
        {"币安人生USDT": RejectedSymbol(60, "symbol_format: s is ...")},
        {"币安人生USDT": RejectedSymbol(61, "symbol_format: s is ...")},
        {},
    ]
    graph = Graph.of(lake)
    with dg.DagsterInstance.ephemeral() as instance:
        for number, rejecting in enumerate(steps):
            report(lake, **rejecting)
            context = dg.build_sensor_context(instance=instance, cursor=cursor)
            result = evaluate(context, graph, {Family.FUTURES: WELL}, time.time() + number)
            cursor = context.cursor if isinstance(result, dg.SkipReason) else result.cursor
            events = [] if isinstance(result, dg.SkipReason) else result.asset_events
            verdicts += [
                (event.passed, event.description)
                for event in events
                if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == FRAMES_ACCEPTED
            ]
    assert json.loads(cursor or "{}")["futures"]["rejecting"] is False
    problem = "usdm 币安人生USDT: 60 frames rejected since the last accepted one (symbol_format: s is ...)"
    assert verdicts == [
        (True, "frames of every symbol are accepted"),
        (False, problem),
        (True, "frames of every symbol are accepted"),
    ]
    assert [(alert.kind, alert.cause) for alert in alerts] == [
        (AlertKind.FAILED, problem),
        (AlertKind.RECOVERED, "frames of every symbol are accepted"),
    ]


def test_api_health_names_the_symbol(lake: Settings) -> None:
    (producer,) = [dependency for dependency in DEPENDENCIES if dependency.name == "producer"]
    report(lake, ETHUSDT=RejectedSymbol(2, "price_format: p is '6.21e-2'"))
    problem = producer.problem(lake, None)  # type: ignore[arg-type]
    assert problem == "usdm ETHUSDT: 2 frames rejected since the last accepted one (price_format: p is '6.21e-2')"
    report(lake)
    assert producer.problem(lake, None) is None  # type: ignore[arg-type]


def test_health_names_a_market_whose_exchange_does_not_respond(lake: Settings) -> None:
    (producer,) = [dependency for dependency in DEPENDENCIES if dependency.name == "producer"]
    waiting = {Market.USD_M: MarketStatus(MarketState.STREAMING), Market.SPOT: MarketStatus(MarketState.WAITING)}
    report_markets(lake, waiting)
    assert producer.problem(lake, None) == "spot: the exchange does not respond"  # type: ignore[arg-type]
    (line,) = producer_problems(lake)
    assert line.startswith("producer: spot: the exchange does not respond.")


def test_rejected_frames_of_a_market_name_the_table_of_its_family(lake: Settings) -> None:
    markets = (Market.USD_M, Market.SPOT)
    rejecting = {"BTCUSDT": RejectedSymbol(2, "price_format: p is '6.21e-2'")}
    report_markets(lake, {market: MarketStatus(MarketState.STREAMING, rejecting=rejecting) for market in markets})
    for line, market, family in zip(producer_problems(lake), markets, ("futures", "spot"), strict=True):
        assert line.startswith(f"producer: {market} BTCUSDT: 2 frames rejected")
        assert f"FROM cryptolake.bronze.{family}_trades_rejected" in line


def test_rejected_frames_fail_the_check_of_their_family_only(lake: Settings) -> None:
    rejecting = {"BTCUSDT": RejectedSymbol(2, "price_format: p is '6.21e-2'")}
    both = {market: MarketStatus(MarketState.STREAMING) for market in (Market.USD_M, Market.SPOT)}
    report_markets(lake, {**both, Market.SPOT: MarketStatus(MarketState.STREAMING, rejecting=rejecting)})
    assert [rejecting_problem(lake, family) is None for family in Family] == [True, False]
