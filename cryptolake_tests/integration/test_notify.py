"""Alerts over real sockets: a webhook, a mail server, failing servers; URLs are never logged."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog
from aiosmtpd.controller import Controller
from pydantic import SecretStr
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cryptolake_assets import cli
from cryptolake_assets.platform import notify as module
from cryptolake_assets.platform.notify import Alert, AlertKind, channel_urls, kind_of_failure, notify
from cryptolake_assets.settings import Settings, get_settings, load_settings
from cryptolake_tests.support.servers import free_port

HIDDEN = "hunter2"
AT = datetime(2024, 7, 18, 23, 5, tzinfo=UTC)
ALERT = Alert(
    AlertKind.FAILED,
    job="__ASSET_JOB",
    assets=("silver/futures_ohlcv_1m",),
    partition="2024-07-18-23:00",
    step="silver__futures_ohlcv_1m",
    cause="silver: 2024-07-18-23:00 rejected",
    failed_checks=("silver/futures_ohlcv_1m: drop_ratio",),
    run_id="1234",
    run_url="http://127.0.0.1:3000/runs/1234",
    at=AT,
)


class Webhook(ThreadingHTTPServer):
    """Accepts POSTs; the first `failures` of them get a 503."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures = failures
        self.received: list[dict[str, Any]] = []
        self.requests = 0


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        fails = self.server.requests <= self.server.failures
        if not fails:
            self.server.received.append(json.loads(body))
        self.send_response(503 if fails else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def webhook() -> Iterator[Callable[..., Webhook]]:
    servers: list[Webhook] = []

    def start(**options: int) -> Webhook:
        server = Webhook(**options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Mailbox:
    """An SMTP handler that stores received mails."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.mails.append((envelope.rcpt_tos, envelope.content))
        return "250 OK"


@pytest.fixture
def mail() -> Iterator[tuple[Mailbox, int]]:
    mailbox = Mailbox()
    port = free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield mailbox, port
    controller.stop()


@pytest.fixture
def root_log() -> Iterator[io.StringIO]:
    """Text written by the root logger, as to a part's log file."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger().addHandler(handler)
    logging.getLogger("anything").warning("is caught")
    assert "is caught" in text.getvalue()
    yield text
    logging.getLogger().removeHandler(handler)


def settings_with(*urls: str) -> Settings:
    return load_settings(notify_urls=SecretStr(", ".join(urls)))


def json_url(server: Webhook) -> str:
    return f"json://user:{HIDDEN}@127.0.0.1:{server.server_port}/s3cret-path"


def test_webhook_receives_the_alert_as_text_and_as_fields(webhook: Callable[..., Webhook]) -> None:
    server = webhook()
    (delivery,) = notify(settings_with(json_url(server)), ALERT)
    assert (delivery.channel, delivery.error) == ("1 (json)", None)
    (body,) = server.received
    assert body["title"] == "CryptoLake: silver/futures_ohlcv_1m [2024-07-18-23:00] failed"
    assert body["type"] == "failure"
    for part in ("drop_ratio", "rejected", "http://127.0.0.1:3000/runs/1234", "2024-07-18T23:05:00Z"):
        assert part in body["message"]
    assert body["alert"] == json.loads(json.dumps(ALERT.fields()))
    assert body["alert"]["failed_checks"] == ["silver/futures_ohlcv_1m: drop_ratio"]


def test_mail_reaches_every_recipient(mail: tuple[Mailbox, int]) -> None:
    mailbox, port = mail
    (delivery,) = notify(
        settings_with(f"mailto://127.0.0.1:{port}?from=lake@example.com&to=a@example.com,b@example.com"), ALERT
    )
    assert delivery.error is None
    assert {name for names, _ in mailbox.mails for name in names} == {"a@example.com", "b@example.com"}
    message = message_from_bytes(mailbox.mails[0][1], policy=default)
    assert message["Subject"] == ALERT.title
    body = message.get_body(("plain", "html"))
    assert body is not None
    for part in ("drop_ratio", "rejected", "http://127.0.0.1:3000/runs/1234"):
        assert part in body.get_content()


def test_alert_is_retried_after_server_errors(webhook: Callable[..., Webhook]) -> None:
    server = webhook(failures=2)
    (delivery,) = notify(settings_with(json_url(server)), ALERT)
    assert delivery.error is None
    assert (server.requests, len(server.received)) == (3, 1)


def test_failed_channel_does_not_block_others_and_is_logged_without_its_url(
    webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch, root_log: io.StringIO
) -> None:
    monkeypatch.setattr(module, "DELIVERY_BUDGET_S", 4.0)
    server = webhook()
    dead = f"json://user:{HIDDEN}@127.0.0.1:{free_port()}/s3cret-path"
    stalled = socket.create_server(("127.0.0.1", 0))  # accepts and sends nothing
    hanging = f"json://user:{HIDDEN}@127.0.0.1:{stalled.getsockname()[1]}/s3cret-path?token=t0ken"
    with capture_logs() as logs, stalled:
        deliveries = notify(settings_with(dead, json_url(server), hanging, "unknown://hunter2"), ALERT)
    assert [delivery.error is None for delivery in deliveries] == [False, True, False, False]
    assert len(server.received) == 1
    failed = [entry for entry in logs if entry["event"] == "alert_delivery_failed"]
    assert [entry["channel"] for entry in failed[:2]] == ["1 (json)", "3 (json)"]
    assert all(entry["log_level"] == "error" for entry in failed)
    shown = json.dumps(logs) + root_log.getvalue() + "".join(str(delivery) for delivery in deliveries)
    for secret in (HIDDEN, "s3cret-path", "t0ken"):
        assert secret not in shown


def test_alert_is_logged_without_any_channel() -> None:
    with capture_logs() as logs:
        assert notify(settings_with(), ALERT) == []
    (entry,) = logs
    assert (entry["event"], entry["log_level"], entry["partition"]) == ("alert_raised", "error", "2024-07-18-23:00")


def test_comma_inside_a_url_does_not_end_it() -> None:
    urls = ["mailto://h?to=a@x.yz,b@x.yz", "json://h/path", "slack://a/b/c"]
    assert channel_urls(settings_with(*urls)) == urls
    assert channel_urls(load_settings(notify_urls=SecretStr(f" {urls[0]}\n{urls[1]},"))) == urls[:2]


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("previous", "first", "expected"),
    [
        (None, None, AlertKind.FAILED),
        (AT - HOUR, AT - HOUR, None),
        (AT - timedelta(seconds=1), AT - 6 * HOUR, AlertKind.STILL_FAILING),
        (AT - timedelta(seconds=1), AT - 6 * HOUR - timedelta(seconds=2), None),
        (AT - 13 * HOUR, AT - 13 * HOUR, AlertKind.STILL_FAILING),
    ],
)
def test_consecutive_failures_alert_once_and_then_at_intervals(
    previous: datetime | None, first: datetime | None, expected: AlertKind | None
) -> None:
    assert kind_of_failure(AT, previous, first, 6 * HOUR) is expected


def test_partition_that_fails_every_minute_for_a_day_alerts_four_times() -> None:
    ends = [AT + timedelta(minutes=number) for number in range(24 * 60)]
    alerts = [
        kind_of_failure(end, ends[number - 1] if number else None, ends[0] if number else None, 6 * HOUR)
        for number, end in enumerate(ends)
    ]
    assert [(number, kind) for number, kind in enumerate(alerts) if kind] == [
        (0, AlertKind.FAILED),
        *((hours * 60, AlertKind.STILL_FAILING) for hours in (6, 12, 18)),
    ]


@pytest.fixture
def cli_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def use(urls: str) -> None:
        monkeypatch.setenv("CRYPTOLAKE_NOTIFY_URLS", urls)
        get_settings.cache_clear()

    yield use
    get_settings.cache_clear()
    structlog.reset_defaults()


def test_notify_test_reports_the_delivery_per_channel(
    webhook: Callable[..., Webhook], cli_settings: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELIVERY_BUDGET_S", 4.0)
    server = webhook()
    cli_settings(json_url(server))
    result = CliRunner().invoke(cli.app, ["notify-test"])
    assert result.exit_code == 0, result.output
    assert "1 (json): sent" in result.output
    assert server.received[0]["type"] == "info"
    cli_settings(f"{json_url(server)},json://127.0.0.1:{free_port()}/s3cret-path")
    result = CliRunner().invoke(cli.app, ["notify-test"])
    assert result.exit_code == 1
    assert "1 (json): sent" in result.output
    assert "2 (json): not sent" in result.output
    assert "s3cret-path" not in result.output


def test_notify_test_without_channels_names_the_setting(cli_settings: Callable[[str], None]) -> None:
    cli_settings("")
    result = CliRunner().invoke(cli.app, ["notify-test"])
    assert result.exit_code == 0
    assert "CRYPTOLAKE_NOTIFY_URLS" in result.output
