"""`python -m cryptolake_assets.cli`: same as the `cryptolake` command."""

from cryptolake_assets.cli import main

main()
