"""Runs one partition of one asset by hand: on the running platform, or without it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from filelock import FileLock

from cryptolake_assets.errors import PartError
from cryptolake_assets.platform import graphql, probes
from cryptolake_assets.platform.code_servers import materialize_lock
from cryptolake_assets.platform.parts import dagster_files
from cryptolake_assets.settings import Settings

POLL_S = 0.5
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")


def platform_answers(settings: Settings) -> bool:
    """Whether the Dagster webserver of these settings serves."""
    return probes.webserver_answers(settings.dagster_address)


MODULES = {
    graphql.LOCATION: "cryptolake_assets.definitions",
    graphql.MARTS_LOCATION: "cryptolake_assets.marts_definitions",
}
"""Where each code location of `workspace.yaml` is defined."""


def materialize_on_platform(settings: Settings, asset: str, partition: str | None, *, wait: bool) -> str:
    """Launches the run, which keeps its place among the others in the queue; returns a line about it.

    With `wait` it returns when the run has ended, and raises `PartError` if that was no success.
    """
    name = f"{asset} [{partition}]" if partition else asset
    run_id = graphql.launch_asset(settings, asset.split("/"), partition)
    url = graphql.RUN_URL.format(address=settings.dagster_pages, run_id=run_id)
    if not wait:
        return f"launched {name}: {url}"
    while (state := graphql.run_status(settings, run_id)) not in _ENDED:
        time.sleep(POLL_S)
    if state != "SUCCESS":
        raise PartError(f"dagster: the run of {name} ended as {state}. See {url}.")
    return f"materialized {name}: {url}"


def materialize_here(settings: Settings, asset: str, partition: str | None) -> int:
    """Runs it in a Dagster process of its own; returns that process's exit code."""
    for path, text in dagster_files(settings).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "dagster", "asset", "materialize"),
        *("-m", MODULES[graphql.location_of(asset.split("/"))], "--select", asset),
        *(("--partition", partition) if partition else ()),
    ]
    environment = {**os.environ, **settings.environment(), "DAGSTER_HOME": str(settings.dagster_home)}
    with FileLock(materialize_lock(settings)):
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode
