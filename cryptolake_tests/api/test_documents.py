"""The curl commands of the documents, run by curl against a running API."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from cryptolake_assets.model.family_tables import FUTURES
from cryptolake_assets.settings import PROJECT_ROOT, Settings
from cryptolake_tests.support.api import FUTURES_EXCHANGE, Api, append, make_marts, serving, trade
from cryptolake_tests.support.documents import commands

ADDRESS = "http://127.0.0.1:8000"
DOCUMENTS = (PROJECT_ROOT / "README.md", PROJECT_ROOT / "docs/api.md")


def curl_lines(path: Path) -> list[list[str]]:
    return [words for words in commands(path) if words[0] == "curl"]


LINES = {shlex.join(words): words for path in DOCUMENTS for words in curl_lines(path)}


def day(symbol: str) -> dict[str, Any]:
    """Return a row of Gold."""
    numbers = {column.name: Decimal(1) for column in FUTURES.daily.columns if column.type.startswith("decimal")}
    counts = {column.name: 1 for column in FUTURES.daily.columns if column.type == "long"}
    values = {
        "exchange": FUTURES_EXCHANGE,
        "symbol": symbol,
        "trade_date": date(2025, 1, 30),
        "realised_volatility": 0.1,
        "is_complete": True,
    }
    return {**numbers, **counts, **values, "updated_at": datetime(2025, 1, 31, tzinfo=UTC)}


@pytest.fixture
def full(bars: Settings) -> Iterator[Api]:
    """Serve a lake with the data that the documents request."""
    make_marts(bars)
    append(
        bars,
        FUTURES.trades,
        [trade("ETHUSDT", number, datetime(2025, 1, 30, tzinfo=UTC)) for number in range(5)],
    )
    append(bars, FUTURES.daily, [day("BTCUSDT")])
    with serving(bars) as made:
        yield made


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_have_curl_commands(path: Path) -> None:
    lines = curl_lines(path)
    assert lines
    assert all(any(word.startswith(ADDRESS) for word in words) for words in lines)


def test_every_curl_command_returns_data(full: Api) -> None:
    for line, words in LINES.items():
        command = [word.replace(ADDRESS, full.url) for word in words]
        done = subprocess.run([*command, "--silent", "--show-error", "--fail"], capture_output=True, timeout=60)
        assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
        if "format=csv" in line:
            assert done.stdout.count(b"\n") > 1, line
            continue
        response = orjson.loads(done.stdout)
        rows = [value for value in response.values() if isinstance(value, list)]
        assert rows, line
        assert all(rows), f"{line}: no rows"
        assert response["snapshot_id"], line


def test_first_documented_call_includes_the_minute_of_its_end(full: Api) -> None:
    url = f"{full.url}/ohlcv/1m?symbol=BTCUSDT&start=2025-01-30%2000:00:00&end=2025-01-30%2000:02:59"
    response = orjson.loads(subprocess.run(["curl", "-sS", "--fail", url], capture_output=True, timeout=60).stdout)
    assert list(response) == ["exchange", "symbol", "timeframe", "snapshot_id", "tail_offsets", "bars", "next_cursor"]
    assert [bar["window_start"][11:16] for bar in response["bars"]] == ["00:00", "00:01", "00:02"]


def test_every_problem_code_is_documented() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "cryptolake_assets/api").glob("*.py")
    )
    named = set(re.findall(r'Problem\(\s*(?:\d+|[a-z.]+),\s*"([a-z-]+)"', sources))
    named |= set(re.findall(r'\b40[45]: "([a-z-]+)"', sources))
    assert {"unknown-symbol", "too-many-clients", "not-found"} <= named
    text = (PROJECT_ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert named <= set(re.findall(r"`([a-z-]+)`", text))
