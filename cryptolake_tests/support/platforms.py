"""Platforms of tests: settings with free ports, and no Spark session that outlives its server."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from cryptolake_assets.settings import PORT_FIELDS, Settings, load_settings


def free_ports() -> dict[str, int]:
    """A free port for every port setting, by field name."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORT_FIELDS]
    try:
        return {field: sock.getsockname()[1] for field, sock in zip(PORT_FIELDS, sockets, strict=True)}
    finally:
        for sock in sockets:
            sock.close()


def settings_for(home: Path, **overrides: Any) -> Settings:
    """Settings of a platform of its own, beside whatever else runs on this machine."""
    return load_settings(**{"home": home, **free_ports(), **overrides})


def stop_spark_session() -> None:
    """A session that outlives its server would be tried again and again when the process ends."""
    if "pyspark" not in sys.modules:
        return
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is not None:
        session.stop()
