"""Log output of a process."""

from __future__ import annotations

import json
import sys

import pytest
import structlog

from cryptolake_assets.log import configure_logging


@pytest.mark.parametrize("interactive", [True, False], ids=["terminal", "file"])
def test_logged_exception_has_a_traceback_without_local_variables(
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
        structlog.get_logger().exception("request_failed")
    logged = capsys.readouterr().err
    for expected in ("request_failed", "7 characters", "fail", "test_log.py"):
        assert expected in logged
    assert "hunter2" not in logged
    if not interactive:
        assert json.loads(logged)["exception"][0]["exc_type"] == "RuntimeError"
