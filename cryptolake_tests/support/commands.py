"""Commands as a person gives them, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

from cryptolake_assets.settings import Settings


def run_cryptolake(settings: Settings, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """`cryptolake` with these settings."""
    return subprocess.run(
        [sys.executable, "-m", "cryptolake_assets.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **settings.environment()},
        timeout=timeout_s,
    )


def cryptolake(settings: Settings, *arguments: str, timeout_s: float) -> str:
    """What it prints; fails with that when it does not end well."""
    done = run_cryptolake(settings, *arguments, timeout_s=timeout_s)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return done.stdout
