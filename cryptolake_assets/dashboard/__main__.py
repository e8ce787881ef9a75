"""`python -m cryptolake_assets.dashboard`: serve the pages at the address of the settings until stopped."""

from __future__ import annotations

import sys
from pathlib import Path

from cryptolake_assets.dashboard import palette
from cryptolake_assets.settings import Settings, get_settings

SCRIPT = Path(__file__).with_name("app.py")


def options(settings: Settings) -> dict[str, object]:
    """Return Streamlit's configuration as options, which override a user's configuration file."""
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
