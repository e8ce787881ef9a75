"""The lists in the documents (routes, commands, errors) are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from cryptolake_assets import cli, errors
from cryptolake_assets.api.app import create_app
from cryptolake_assets.settings import PROJECT_ROOT, load_settings

DOCS = PROJECT_ROOT / "docs"
WEBSOCKET = "/ws/ohlcv"  # OpenAPI documents describe no WebSockets


def test_every_route_is_in_the_api_page() -> None:
    served = {*create_app(load_settings()).openapi()["paths"], WEBSOCKET} - {"/"}
    rows = re.findall(r"^\| (`/[^|]+) \|", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {path for row in rows for path in re.findall(r"`(/[^`]+)`", row)} == served


def test_every_command_is_in_the_page_of_commands() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!`make …`).*$", text, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`cryptolake (\S+?)[ `]", row)}
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    assert set(commands) == listed


def test_every_error_is_in_troubleshooting() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[A-Z][^|]+) \|", text, re.MULTILINE)
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.CryptolakeError) and value is not errors.CryptolakeError
    }
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == defined


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_page_begins_with_what_it_answers(page: Path) -> None:
    """A page has a title, and a first paragraph before any table, list, picture or section."""
    title, blank, first, *_ = page.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert blank == ""
    assert re.match(r"[A-Z`]", first)


def sources() -> str:
    """Return the texts of the code, with strings that continue on the next line joined."""
    folders = ("cryptolake_assets", "scripts")
    files = [PROJECT_ROOT / "Makefile", *(path for name in folders for path in (PROJECT_ROOT / name).rglob("*.py"))]
    return re.sub(r'"\s*\n\s*f?"', "", "".join(path.read_text(encoding="utf-8") for path in files))


def test_messages_and_events_in_troubleshooting_are_those_of_the_code() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r'^\*\*[^"*]*"([^"]+)"', text, re.MULTILINE)
    events = re.findall(r"^\*\*`([a-z_]+)`", text, re.MULTILINE)
    assert len(messages) > 10
    assert len(events) > 2
    code = sources()
    for fragment in [part.strip() for message in messages for part in message.split("…")]:
        assert fragment in code, fragment
    for event in events:
        assert f'"{event}"' in code, event
