"""`cryptolake` commands in their own processes, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys

from cryptolake_assets.settings import Settings


def run_cryptolake(settings: Settings, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run `cryptolake` with these settings."""
    return subprocess.run(
        [sys.executable, "-m", "cryptolake_assets.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **settings.environment()},
        timeout=timeout_s,
    )


def cryptolake(settings: Settings, *arguments: str, timeout_s: float) -> str:
    """Run `cryptolake` and return its output; fail with the output if the exit code is not 0."""
    done = run_cryptolake(settings, *arguments, timeout_s=timeout_s)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return done.stdout
