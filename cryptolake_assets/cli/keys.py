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

keys = typer.Typer(no_args_is_help=True, help="Create, register, list and revoke keys of the HTTP API.")
app.add_typer(keys, name="keys")
_Scopes = Annotated[list[Scope] | None, typer.Option(help="`read` (data) or `operate` (metrics); repeatable.")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key, such as its user.")],
    scope: _Scopes = None,
) -> None:
    """Create a key and print it. It is shown only once: the API stores its hash."""
    typer.echo(create_key(get_settings(), name, _distinct(scope)))


@keys.command()
def register(
    name: Annotated[str, typer.Argument(help="Name of the key; replaces an earlier key of this name.")],
    scope: _Scopes = None,
) -> None:
    """Register the key on standard input, for a client that already has it. Idempotent."""
    is_new = register_key(get_settings(), name, _distinct(scope), sys.stdin.read().strip())
    typer.echo(f"{name}: {'registered' if is_new else 'already registered'}")


def _distinct(scopes: list[Scope] | None) -> tuple[Scope, ...]:
    return tuple(dict.fromkeys(scopes or [Scope.READ]))


@keys.command(name="list")
def list_all() -> None:
    """Show every key: id, name, scopes, creation time."""
    table = Table("Id", "Name", "Scopes", "Created (UTC)")
    for key in list_keys(get_settings()):
        table.add_row(key.id, Text(key.name), ", ".join(key.scopes), f"{key.created_at:%Y-%m-%d %H:%M}")
    Console().print(table)


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Name or id of the key, as shown by `cryptolake keys list`.")],
) -> None:
    """Revoke a key; a running API rejects it from now on."""
    revoked = revoke_key(get_settings(), key)
    typer.echo(f"revoked: {revoked.id} ({revoked.name})")
