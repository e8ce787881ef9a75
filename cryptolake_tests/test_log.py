"""What a process writes into its log."""

from __future__ import annotations

import json
import sys

import pytest
import structlog

from cryptolake_assets.log import configure_logging


@pytest.mark.parametrize("interactive", [True, False], ids=["terminal", "file"])
def test_a_logged_exception_shows_its_traceback_and_no_local_variable(
    interactive: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: interactive)
    configure_logging()

    def fail() -> None:
        password = "hunter" + "2"
        raise RuntimeError(f"{len(password)} characters")

    try:
        fail()
    except RuntimeError:
        structlog.get_logger().exception("it_failed")
    logged = capsys.readouterr().err
    for expected in ("it_failed", "7 characters", "fail", "test_log.py"):
        assert expected in logged
    assert "hunter2" not in logged
    if not interactive:
        assert json.loads(logged)["exception"][0]["exc_type"] == "RuntimeError"
