"""`python -m cryptolake_assets.api`: serves the API where the settings say, until it is told to stop."""

from __future__ import annotations

import uvicorn

from cryptolake_assets.api.app import create_app
from cryptolake_assets.log import configure_logging
from cryptolake_assets.settings import get_settings

GRACE_S = 3
"""What an open connection has to end by itself."""


def main() -> None:
    settings = get_settings()
    configure_logging(settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACE_S,
        ws_max_size=4096,
    )


if __name__ == "__main__":
    main()
