"""Commands on the keys of the HTTP API: create, register, list, revoke."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cryptolake_assets.api.api_keys import Scope, create_key, list_keys, register_key, revoke_key
from cryptolake_assets.cli.app import app
from cryptolake_assets.settings import get_settings

keys = typer.Typer(no_args_is_help=True, help="Keys of the HTTP API: create, register, list, revoke.")
app.add_typer(keys, name="keys")
_Scopes = Annotated[
    list[Scope] | None, typer.Option(help="`read` (data) or `operate` (metrics); may be given several times.")
]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, to know it again.")],
    scope: _Scopes = None,
) -> None:
    """Make a key of a new name and print it: it is shown this once, and kept as a hash."""
    typer.echo(create_key(get_settings(), name, _distinct(scope)))


@keys.command()
def register(
    name: Annotated[str, typer.Argument(help="Whose key it is; an earlier key of this name goes.")],
    scope: _Scopes = None,
) -> None:
    """Make a key of the text on standard input, for a reader that was given it before: safe to run again."""
    made = register_key(get_settings(), name, _distinct(scope), sys.stdin.read().strip())
    typer.echo(f"{name}: {'registered' if made else 'is there'}")


def _distinct(scopes: list[Scope] | None) -> tuple[Scope, ...]:
    return tuple(dict.fromkeys(scopes or [Scope.READ]))


@keys.command(name="list")
def list_all() -> None:
    """Show every key's id, name, scopes and age."""
    table = Table("id", "name", "scopes", "created (UTC)")
    for key in list_keys(get_settings()):
        table.add_row(key.id, Text(key.name), ", ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The name or the id of the key, as `cryptolake keys list` shows them.")],
) -> None:
    """Take a key back; a running API refuses it from now on."""
    gone = revoke_key(get_settings(), key)
    typer.echo(f"revoked: {gone.id} ({gone.name})")
