"""`python -m cryptolake_assets.api`: serve the API at the address of the settings until stopped."""

from __future__ import annotations

import uvicorn

from cryptolake_assets.api.app import create_app
from cryptolake_assets.api.http_server import OPTIONS
from cryptolake_assets.log import configure_logging
from cryptolake_assets.settings import get_settings


def main() -> None:
    settings = get_settings()
    configure_logging(settings.log_level)
    uvicorn.run(create_app(settings), host=settings.api_host, port=settings.api_port, **OPTIONS)


if __name__ == "__main__":
    main()
