"""The `cryptolake` command: thin commands over the platform, the stream and the lake.

Each command imports its heavy modules itself, so that `--help` responds at once.
"""

from cryptolake_assets.cli import archive, backup, data, keys, maintenance, platform, record  # noqa: F401  (they register their commands on `app`)
from cryptolake_assets.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the `cryptolake` command."""
    app(prog_name="cryptolake")
