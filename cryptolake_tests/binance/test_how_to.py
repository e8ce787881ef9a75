"""docs/add-a-stream.md matches the code: its files and names exist, its code is that of the example."""

from __future__ import annotations

import re
from dataclasses import fields

from cryptolake_assets.binance import stream_adapter as binance
from cryptolake_assets.binance import stream_type
from cryptolake_assets.binance.stream_type import MinuteStream
from cryptolake_assets.binance.venue_adapter import Proof
from cryptolake_assets.settings import PROJECT_ROOT
from cryptolake_tests.support import toy

HOW_TO = (PROJECT_ROOT / "docs" / "add-a-stream.md").read_text(encoding="utf-8")
SPANS = set(re.findall(r"`([^`\n]+)`", HOW_TO))


def test_files_of_the_how_to_exist() -> None:
    paths = {span for span in SPANS if span.endswith(".py")}
    assert len(paths) >= 8
    for path in paths:
        assert any((PROJECT_ROOT / above / path).is_file() for above in ("", "cryptolake_assets")), path


def test_code_of_the_how_to_equals_the_example() -> None:
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO, re.DOTALL)
    support = PROJECT_ROOT / "cryptolake_tests" / "support"
    example = "\n\n\n".join((support / name).read_text(encoding="utf-8") for name in ("toy.py", "toy_venue.py"))
    assert len(blocks) == 3
    for block in blocks:
        for part in block.strip().split("\n\n\n"):
            assert part in example


def test_table_of_the_how_to_lists_the_fields_of_a_stream_type() -> None:
    table = HOW_TO.partition("| field |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert {field.name for field in fields(MinuteStream)} - named == {"address", "capabilities", "parser"}
    assert named <= {field.name for field in fields(MinuteStream)}


def test_proofs_of_the_how_to_are_those_of_the_adapter() -> None:
    table = HOW_TO.partition("| `proof` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE) == [proof.value for proof in Proof]


def test_names_and_the_test_of_the_how_to_exist() -> None:
    for name in ("Price", "RateOrNone", "TimeMs", "Word", "FrameReader", "MinuteStream"):
        assert name in SPANS
        assert hasattr(stream_type, name)
    assert "combined" in SPANS
    assert hasattr(binance, "combined")
    (test,) = [span for span in SPANS if span.startswith("test_")]
    text = (PROJECT_ROOT / "cryptolake_tests/integration/test_market_streams.py").read_text(encoding="utf-8")
    assert f"async def {test}(" in text
    assert toy.STREAM.address is toy.address
