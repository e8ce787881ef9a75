"""Commands on the keys of the HTTP API: create, register, list, revoke."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cryptolake_assets.cli.app import app

if TYPE_CHECKING:
    from cryptolake_assets.api.api_keys import Scope

keys = typer.Typer(no_args_is_help=True, help="Keys of the HTTP API: create, register, list, revoke.")
app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, to know it again.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="`read` (data) or `operate` (metrics); may be given several times.")
    ] = None,
) -> None:
    """Make a key of a new name and print it: it is shown this once, and kept as a hash."""
    from cryptolake_assets.api.api_keys import create_key
    from cryptolake_assets.settings import get_settings

    typer.echo(create_key(get_settings(), name, _scopes(scope)))


@keys.command()
def register(
    name: Annotated[str, typer.Argument(help="Whose key it is; an earlier key of this name goes.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="`read` (data) or `operate` (metrics); may be given several times.")
    ] = None,
) -> None:
    """Make a key of the text on standard input, for a reader that was given it before: safe to run again."""
    from cryptolake_assets.api.api_keys import register_key
    from cryptolake_assets.settings import get_settings

    made = register_key(get_settings(), name, _scopes(scope), sys.stdin.read().strip())
    typer.echo(f"{name}: {'registered' if made else 'is there'}")


def _scopes(names: list[str] | None) -> tuple[Scope, ...]:
    from cryptolake_assets.api.api_keys import Scope

    try:
        return tuple(dict.fromkeys(Scope(item) for item in names or ["read"]))
    except ValueError as error:
        raise typer.BadParameter(f"{error}; scopes are {', '.join(Scope)}", param_hint="--scope") from None


@keys.command(name="list")
def list_all() -> None:
    """Show every key's id, name, scopes and age."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cryptolake_assets.api.api_keys import list_keys
    from cryptolake_assets.settings import get_settings

    table = Table("id", "name", "scopes", "created (UTC)")
    for key in list_keys(get_settings()):
        table.add_row(key.id, Text(key.name), ", ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The name or the id of the key, as `cryptolake keys list` shows them.")],
) -> None:
    """Take a key back; a running API refuses it from now on."""
    from cryptolake_assets.api.api_keys import revoke_key
    from cryptolake_assets.settings import get_settings

    gone = revoke_key(get_settings(), key)
    typer.echo(f"revoked: {gone.id} ({gone.name})")
