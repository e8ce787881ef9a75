"""Alerts about failures: always a log event, and a message on every channel of the settings (webhook, mail, chat).

apprise implements the channels; this module defines an alert's content, how often it is sent, and the retry budget.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import structlog

from cryptolake_assets.errors import NotificationError

if TYPE_CHECKING:
    from apprise.plugins.base import NotifyBase

    from cryptolake_assets.settings import Settings

log = structlog.get_logger(__name__)

DELIVERY_BUDGET_S = 9.0  # a tick of Dagster's run status sensors handles up to 5 runs and times out after 60 s
SOCKET_TIMEOUT_S = 3.0
FIRST_PAUSE_S = 0.5
MAX_CAUSE_CHARACTERS = 500

_OWN_ERROR = re.compile(r"^cryptolake_assets\.errors\.\w+: ")
_SEPARATOR = re.compile(r"[,\s]+(?=[A-Za-z0-9]+://)")


class AlertKind(StrEnum):
    """The reason for an alert."""

    FAILED = "failed"
    STILL_FAILING = "still failing"
    RECOVERED = "recovered"
    TEST = "test"


@dataclass(frozen=True)
class Alert:
    """An alert about a run. `partition` is a key or a range `first...last`; `at` and `since` are UTC."""

    kind: AlertKind
    job: str
    assets: tuple[str, ...] = ()
    partition: str | None = None
    step: str | None = None
    cause: str = ""
    failed_checks: tuple[str, ...] = ()
    run_id: str = ""
    run_url: str = ""
    at: datetime | None = None
    since: datetime | None = None  # end of the first failure in the series

    @property
    def subject(self) -> str:
        """The assets, or else the job, with the partition."""
        what = ", ".join(self.assets) or self.job
        return f"{what} [{self.partition}]" if self.partition else what

    @property
    def title(self) -> str:
        return f"CryptoLake: {self.subject} {self.kind}" if self.kind is not AlertKind.TEST else "CryptoLake: test"

    @property
    def text(self) -> str:
        """The alert as text, one `name: value` line per fact."""
        lines = {
            "assets": ", ".join(self.assets),
            "partition": self.partition,
            "failed checks": ", ".join(self.failed_checks),
            "cause": self.cause,
            "job": self.job,
            "step": self.step,
            "run": self.run_url,
            "at": _time_text(self.at),
            "failing since": _time_text(self.since),
        }
        return "\n".join(f"{name}: {value}" for name, value in lines.items() if value)

    def fields(self) -> dict[str, Any]:
        """Return the alert as JSON values."""
        return {
            **asdict(self),
            "kind": self.kind.value,
            "assets": list(self.assets),
            "failed_checks": list(self.failed_checks),
            "at": _time_text(self.at),
            "since": _time_text(self.since),
        }


@dataclass(frozen=True)
class Delivery:
    """The result of an alert on one channel; `error` is None if it was delivered."""

    channel: str
    error: str | None = None


def kind_of_failure(
    at: datetime, previous: datetime | None, first: datetime | None, remind: timedelta
) -> AlertKind | None:
    """Return the kind of alert for a failure that ended at `at`; None for no alert. Stateless.

    `previous` is the end of the preceding failure, `first` the end of the first failure in the series; both are None
    if the preceding run succeeded or there was none. Reminders are due at whole multiples of `remind` after `first`;
    the first failure after a due time is reported as "still failing".
    """
    if previous is None or first is None:
        return AlertKind.FAILED
    due, reported = (at - first) // remind, (previous - first) // remind
    return AlertKind.STILL_FAILING if due > reported else None


def first_line(text: str) -> str:
    """Return the first non-empty line, cut to `MAX_CAUSE_CHARACTERS`."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= MAX_CAUSE_CHARACTERS else line[: MAX_CAUSE_CHARACTERS - 1] + "…"


def cause_line(text: str) -> str:
    """Return the first line of a step's error, without the class of a CryptoLake error: its message names the part."""
    return first_line(_OWN_ERROR.sub("", text.lstrip()))


def channel_urls(settings: Settings) -> list[str]:
    """Return the notification URLs of the settings. A comma inside a URL (two recipients) does not end it."""
    text = settings.notify_urls.get_secret_value().strip().strip(",")
    return [url for url in _SEPARATOR.split(text) if url]


def notify(settings: Settings, alert: Alert) -> list[Delivery]:
    """Log the alert and send it on every channel; return the deliveries in the settings' order.

    A failed delivery does not raise: it is logged as an error, after `DELIVERY_BUDGET_S` at the latest.
    """
    level = log.info if alert.kind in (AlertKind.RECOVERED, AlertKind.TEST) else log.error
    level("alert_raised", **{name: value for name, value in alert.fields().items() if value})
    deliveries = _send_all(channel_urls(settings), alert)
    for delivery in deliveries:
        if delivery.error is not None:
            log.error(
                "alert_delivery_failed",
                channel=delivery.channel,
                error=delivery.error,
                run_id=alert.run_id,
                next_step="check CRYPTOLAKE_NOTIFY_URLS, then `cryptolake notify-test`",
            )
    return deliveries


def _send_all(urls: list[str], alert: Alert) -> list[Delivery]:
    """Send on all channels in parallel, so that a hanging one does not delay the others."""
    names = [f"{number} ({_scheme(url)})" for number, url in enumerate(urls, 1)]
    errors: dict[str, str | None] = {}

    def send(name: str, url: str) -> None:
        try:
            _send_with_retries(url, alert)
            errors[name] = None
        except NotificationError as error:
            errors[name] = str(error)
        except Exception as error:  # an error in one plug-in must not hide the other deliveries
            errors[name] = f"{type(error).__name__} in the notifier"

    threads = [threading.Thread(target=send, args=pair, daemon=True) for pair in zip(names, urls, strict=True)]
    for thread in threads:
        thread.start()
    deadline = datetime.now(UTC) + timedelta(seconds=DELIVERY_BUDGET_S)
    for thread in threads:
        thread.join(max(0.0, (deadline - datetime.now(UTC)).total_seconds()))
    return [Delivery(name, errors.get(name, f"no response within {DELIVERY_BUDGET_S:.0f} s")) for name in names]


def _send_with_retries(url: str, alert: Alert) -> None:
    """Send with retries. Raises `NotificationError` with the last reason if no attempt succeeds in time."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

    channel = _channel(url, alert)
    retrying = Retrying(
        retry=retry_if_exception_type(NotificationError),
        wait=wait_exponential(FIRST_PAUSE_S, min=FIRST_PAUSE_S),
        stop=stop_after_delay(DELIVERY_BUDGET_S - SOCKET_TIMEOUT_S),
        reraise=True,
    )
    retrying(_send, channel, url, alert)


def _send(channel: NotifyBase, url: str, alert: Alert) -> None:
    from apprise import Apprise, NotifyFormat, NotifyType

    types = {AlertKind.RECOVERED: NotifyType.SUCCESS, AlertKind.TEST: NotifyType.INFO}
    sender = Apprise()
    sender.add(channel)
    with _collect_warnings() as lines:
        accepted = sender.notify(
            body=alert.text,
            title=alert.title,
            notify_type=types.get(alert.kind, NotifyType.FAILURE),
            body_format=NotifyFormat.TEXT,
        )
    if not accepted:
        raise NotificationError(_without_secrets("; ".join(lines), url) or "the receiver did not accept the message")


def _channel(url: str, alert: Alert) -> NotifyBase:
    """Return the channel of a URL; a JSON webhook gets the alert's fields in addition to its text."""
    import apprise
    from apprise.plugins.custom_json import NotifyJSON

    with _collect_warnings():
        channel = apprise.Apprise.instantiate(url)
    if channel is None:
        raise NotificationError("apprise does not support this URL")
    channel.socket_connect_timeout = SOCKET_TIMEOUT_S
    channel.socket_read_timeout = SOCKET_TIMEOUT_S
    if isinstance(channel, NotifyJSON):
        channel.payload_extras = {**channel.payload_extras, "alert": alert.fields()}
    return channel


@contextmanager
def _collect_warnings() -> Iterator[list[str]]:
    """Collect apprise's warnings in this thread and keep them out of all logs: they may contain addresses."""
    lines: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                lines.append(record.getMessage())

    logger = logging.getLogger("apprise")
    logger.propagate = False
    collector = Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield lines
    finally:
        logger.removeHandler(collector)


def _without_secrets(text: str, url: str) -> str:
    """Return `text` without any part of the URL except its scheme and host."""
    parts = urlsplit(url)
    values = [parts.username, parts.password, *parts.path.split("/"), *(value for _, value in parse_qsl(parts.query))]
    secrets = {unquote(value) for value in values if value} | {value for value in values if value}
    for secret in sorted((secret for secret in secrets if len(secret) > 2), key=len, reverse=True):
        text = text.replace(secret, "***")
    return first_line(text)


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else "not a URL"


def _time_text(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
