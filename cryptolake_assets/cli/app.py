"""The Typer app of the `cryptolake` command, and how it turns errors into messages."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.log import configure_logging


class _Group(TyperGroup):
    """Turn an error that a user can act on into a red message and exit code 1, without a traceback.

    This includes file errors, such as a home that is not writable or a full disk.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CryptolakeError as error:
            typer.secho(str(error), fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            if error.filename is None:  # not about a user's file: a closed pipe, or a bug
                raise
            cause = f"files: {error.filename} cannot be used ({error.strerror})."
            hint = "Correct the path or its permissions; CRYPTOLAKE_HOME is the directory of all state."
            typer.secho(f"{cause} {hint}", fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    name="cryptolake",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ingest exchange trades through Kafka and Spark into Iceberg, and build exact bars and daily stats.",
    epilog="Settings are environment variables or lines of .env; .env.example lists all of them.",
)


@app.callback()
def _configure() -> None:
    configure_logging("WARNING")
