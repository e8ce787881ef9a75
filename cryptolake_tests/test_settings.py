"""The settings class: rejected values and their messages, and `.env.example`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pydantic import SecretStr

from cryptolake_assets.errors import SettingsError
from cryptolake_assets.model.markets import Family, Market
from cryptolake_assets.settings import (
    DEMO_CAPTURE_DIR,
    PORT_FIELDS,
    PROJECT_ROOT,
    Settings,
    Source,
    TradeStream,
    env_name,
    load_settings,
)
from scripts.env_secrets import CHOICES, SECRETS

EXAMPLE = PROJECT_ROOT / ".env.example"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the settings of the developer's shell and .env."""
    for field in Settings.model_fields:
        monkeypatch.delenv(env_name(field), raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CRYPTOLAKE_PROFILE", "laptop", "'local' or 'cluster'"),
        ("CRYPTOLAKE_SOURCE", "kraken", "'replay' or 'binance'"),
        ("CRYPTOLAKE_TRADE_STREAM", "depth", "'auto', 'aggTrade' or 'trade'"),
        ("CRYPTOLAKE_SYMBOLS", "BTCUSDT,b t c", "is not a symbol"),
        ("CRYPTOLAKE_REPLAY_SPEED", "-1", "greater than or equal to 0"),
        ("CRYPTOLAKE_START_DATE", "yesterday", "valid date"),
        ("CRYPTOLAKE_KAFKA_PORT", "70000", "less than or equal to 65535"),
        ("CRYPTOLAKE_KAFKA_PORT", "ninety", "valid integer"),
        ("KAFKA_TOPIC_FUTURES", "with space", "match pattern"),
        ("CRYPTOLAKE_LOG_LEVEL", "loud", "match pattern"),
        ("CRYPTOLAKE_DROP_RATIO_LIMIT", "1.5", "less than or equal to 1"),
    ],
)
def test_invalid_value_is_rejected_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert variable in str(error.value)
    assert expected in str(error.value)
    assert repr(value) in str(error.value)


def test_all_invalid_values_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_PROFILE", "laptop")
    monkeypatch.setenv("CRYPTOLAKE_DAGSTER_PORT", "0")
    with pytest.raises(SettingsError, match=r"CRYPTOLAKE_DAGSTER_PORT.*CRYPTOLAKE_PROFILE"):
        load_settings()


def test_two_parts_on_the_same_port_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTOLAKE_DAGSTER_PORT", "9092")
    with pytest.raises(SettingsError, match=r"CRYPTOLAKE_KAFKA_PORT and CRYPTOLAKE_DAGSTER_PORT are both 9092"):
        load_settings()


@pytest.mark.parametrize("spot", ["binance_futures_realtime", "binance_futures_realtime_rejected"])
def test_families_on_the_same_topic_are_rejected(spot: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"KAFKA_TOPIC_FUTURES .* and KAFKA_TOPIC_SPOT \({spot}\) must be two topics"
    ):
        load_settings(kafka_topic_spot=spot)


def test_relative_paths_start_at_the_project_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYPTOLAKE_HOME", "state")
    monkeypatch.setenv("CRYPTOLAKE_REPLAY_DIR", "captures/july")
    settings = load_settings()
    assert settings.home == PROJECT_ROOT / "state"
    assert settings.replay_dir == PROJECT_ROOT / "captures" / "july"


def test_symbols_are_upper_case_and_unique() -> None:
    assert load_settings(symbols="btcusdt, ETHUSDT ,btcusdt,").symbols == ("BTCUSDT", "ETHUSDT")


def test_addresses_follow_the_source() -> None:
    replay = load_settings(exchange_port=18090)
    live = load_settings(source="binance")
    assert (replay.ws_url, replay.rest_url) == ("ws://127.0.0.1:18090", "http://127.0.0.1:18090")
    assert live.ws_url.startswith("wss://")
    assert live.rest_url.startswith("https://")


def test_dead_letter_topic_follows_the_trades_topic() -> None:
    assert load_settings().kafka_topic_futures == "binance_futures_realtime"
    assert load_settings(kafka_topic_futures="t").topic_rejected == "t_rejected"


def test_child_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {
        "home": tmp_path / "a home; with # signs",
        "source": Source.REPLAY,
        "symbols": ("ETHUSDT", "BTCUSDT"),
        "trade_stream": TradeStream.TRADE,
        "start_date": date(2024, 7, 1),
        "replay_speed": 0.5,
        "kafka_port": 19092,
        "minio_root_password": SecretStr('a "quoted" %s; secret'),
    }
    settings = load_settings(**values)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_no_secret_is_printed() -> None:
    assert "hunter2" not in repr(load_settings(minio_root_password=SecretStr("hunter2")))
    assert "hunter2" not in repr(load_settings(notify_urls=SecretStr("slack://hunter2")))


@pytest.mark.parametrize("field", PORT_FIELDS)
def test_ports_are_different(field: str) -> None:
    ports = {name: getattr(load_settings(), name) for name in PORT_FIELDS}
    assert ports.keys() >= {"kafka_port", "spark_connect_port", "exchange_port", "dagster_port", "api_port"}
    other = next(name for name in PORT_FIELDS if name != field)
    with pytest.raises(SettingsError, match=f"are both {ports[other]}"):
        load_settings(**{field: ports[other]})


def example_entries() -> dict[str, tuple[str, str]]:
    """Return the comment and the value of each variable in `.env.example`."""
    entries: dict[str, tuple[str, str]] = {}
    comment: list[str] = []
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            comment.append(line.removeprefix("# "))
        elif line.startswith("#"):
            name, _, value = line.removeprefix("#").partition("=")
            assert name not in entries
            entries[name] = (" ".join(comment), value)
        else:
            assert line == "", f"unexpected line: {line!r}"
            comment = []
    return entries


def test_example_has_exactly_the_settings_and_the_cluster_variables() -> None:
    expected = {*map(env_name, Settings.model_fields), *CHOICES, *SECRETS}
    assert sorted(example_entries()) == sorted(expected), "run `make env-example`"


def test_example_describes_every_setting() -> None:
    described = {name: comment for name, (comment, _) in example_entries().items()}
    of_the_cluster = {name: text for name, (_, text) in CHOICES.items() if text}
    of_the_cluster |= {name: text for name, text in SECRETS.items() if text}
    settings = {env_name(name): field.description for name, field in Settings.model_fields.items()}
    assert described == settings | of_the_cluster


def test_example_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load_settings()
    for name, (_, value) in example_entries().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == defaults
    assert defaults.replay_dir == DEMO_CAPTURE_DIR


def test_addresses_use_the_hosts_of_parts_on_other_machines() -> None:
    local = load_settings()
    assert local.dagster_address == f"http://127.0.0.1:{local.dagster_port}"
    assert local.ws_url == f"ws://127.0.0.1:{local.exchange_port}"
    assert local.exchange_bind_host == "127.0.0.1"
    remote = load_settings(dagster_url="http://dagster:3000/", exchange_host="exchange")
    assert remote.dagster_address == "http://dagster:3000"
    assert remote.ws_url == f"ws://exchange:{remote.exchange_port}"
    assert remote.rest_url == remote.archive_url == f"http://exchange:{remote.exchange_port}"
    assert remote.exchange_bind_host == "0.0.0.0"
    live = load_settings(source="binance", exchange_host="exchange")
    assert "exchange:" not in live.ws_url + live.rest_url + live.archive_url


def test_view_of_an_untracked_family_keeps_the_tracked_markets() -> None:
    view = load_settings(market=Market.COIN_M).of_family(Family.SPOT)
    assert (view.market, view.tracked_markets, view.tables.family) == (Market.SPOT, (Market.COIN_M,), Family.SPOT)
    assert view.of_market(Market.COIN_M).tracked_markets == (Market.COIN_M,)


SELECTIONS = {
    "usdm:BTCUSDT,ETHUSDT;spot:top:20": {"usdm": ("BTCUSDT", "ETHUSDT"), "spot": ("TOP:20",)},
    "top:20:USDC": {"usdm": ("TOP:20:USDC",), "spot": ()},
    "spot:top:20:USDC,solusdt;*usdc": {"usdm": ("*USDC",), "spot": ("TOP:20:USDC", "SOLUSDT")},
    "SPOT : btcusdt ; BTCUSDT": {"usdm": ("BTCUSDT",), "spot": ("BTCUSDT",)},
    "usdm:;spot:BTCUSDT": {"usdm": (), "spot": ("BTCUSDT",)},
}


@pytest.mark.parametrize("text", SELECTIONS)
def test_symbols_are_selected_by_market(text: str) -> None:
    settings = load_settings(source="binance", markets="usdm,spot", symbols=text)
    assert {view.market.value: view.symbol_items for view in settings.each_market} == SELECTIONS[text]
    environment = settings.environment()
    child = load_settings(source="binance", markets="usdm,spot", symbols=environment["CRYPTOLAKE_SYMBOLS"])
    assert [view.symbol_items for view in child.each_market] == [view.symbol_items for view in settings.each_market]


def test_symbols_file_selects_by_market_and_line(tmp_path: Path) -> None:
    file = tmp_path / "symbols"
    file.write_text("spot:BTCUSDT,ETHUSDT\nSOLUSDT\n", encoding="utf-8")
    settings = load_settings(source="binance", markets="usdm,spot", symbols_file=file)
    assert [view.symbol_items for view in settings.each_market] == [("SOLUSDT",), ("BTCUSDT", "ETHUSDT")]


def test_symbols_of_an_untracked_market_are_rejected() -> None:
    with pytest.raises(SettingsError, match="names the market spot, which is not tracked"):
        load_settings(markets="usdm", symbols="spot:BTCUSDT")


def test_default_market_is_the_first_of_several() -> None:
    settings = load_settings(source="binance", markets="usdm,spot", market="spot")
    assert (settings.market, settings.venue.exchange) == (Market.USD_M, "binance_futures")
    spot = settings.of_market(Market.SPOT)
    assert (spot.tables.bars.name, spot.topic_trades) == ("spot_ohlcv_1m", "binance_spot_realtime")
    assert spot.environment()["CRYPTOLAKE_MARKETS"] == "usdm,spot"
