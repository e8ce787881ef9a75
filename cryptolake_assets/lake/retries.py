"""Retries of commits that lost a race with another writer."""

from __future__ import annotations

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

log = structlog.get_logger(__name__)

COMMIT_ATTEMPTS = 5


def commit_attempts(*lost_race: type[Exception]) -> Retrying:
    """Retry after these exceptions, with growing random pauses; raise the last one after `COMMIT_ATTEMPTS`."""
    return Retrying(
        retry=retry_if_exception_type(lost_race),
        stop=stop_after_attempt(COMMIT_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        before_sleep=_log_lost_race,
        reraise=True,
    )


def _log_lost_race(state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    log.info("commit_retried", attempt=state.attempt_number, reason=f"{type(error).__name__}: {error}"[:200])
