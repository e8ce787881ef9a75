"""`python -m cryptolake_assets.dashboard`: serves the pages where the settings say, until it is told to stop."""

from __future__ import annotations

import sys
from pathlib import Path

from cryptolake_assets.dashboard import palette
from cryptolake_assets.settings import Settings, get_settings

SCRIPT = Path(__file__).with_name("app.py")


def options(settings: Settings) -> dict[str, object]:
    """Streamlit's configuration. Given as options, it wins over a user's own file of it."""
    return {
        "server.address": settings.dashboard_host,
        "server.port": settings.dashboard_port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "runner.magicEnabled": False,
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "client.toolbarMode": "minimal",
        "theme.light.primaryColor": palette.LIGHT.accent,
        "theme.dark.primaryColor": palette.DARK.accent,
    }


def main() -> None:
    from streamlit.web import cli

    flags = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in options(get_settings()).items()
    ]
    sys.argv = ["streamlit", "run", str(SCRIPT), *flags]
    cli.main()


if __name__ == "__main__":
    main()
