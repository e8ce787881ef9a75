"""Commands on the keys of the HTTP API: create, list, revoke."""

from __future__ import annotations

from typing import Annotated

import typer

from cryptolake_assets.cli import app

keys = typer.Typer(no_args_is_help=True, help="Keys of the HTTP API: create, list, revoke.")
app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, to know it again.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="`read` (data) or `operate` (metrics); may be given several times.")
    ] = None,
) -> None:
    """Make a key and print it: it is shown this once, and kept as a hash."""
    from cryptolake_assets.api.keys import Scope, create_key
    from cryptolake_assets.settings import get_settings

    try:
        scopes = tuple(dict.fromkeys(Scope(item) for item in scope or ["read"]))
    except ValueError as error:
        raise typer.BadParameter(f"{error}; scopes are {', '.join(Scope)}") from None
    typer.echo(create_key(get_settings(), name, scopes))


@keys.command(name="list")
def list_all() -> None:
    """Show every key's id, name, scopes and age."""
    from rich.console import Console
    from rich.table import Table

    from cryptolake_assets.api.keys import list_keys
    from cryptolake_assets.settings import get_settings

    table = Table("id", "name", "scopes", "created (UTC)")
    for key in list_keys(get_settings()):
        table.add_row(key.id, key.name, ", ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id that `cryptolake keys list` shows.")]) -> None:
    """Take a key back; a running API refuses it from now on."""
    from cryptolake_assets.api.keys import revoke_key
    from cryptolake_assets.settings import get_settings

    gone = revoke_key(get_settings(), key_id)
    typer.echo(f"revoked: {gone.id} ({gone.name})")
