"""Exit with 0 if every part of the platform is ready, else print the problems and exit with 1: `cryptolake health`."""

from __future__ import annotations

import sys

from cryptolake_assets.cli import app

if __name__ == "__main__":
    app(["health", *sys.argv[1:]])
