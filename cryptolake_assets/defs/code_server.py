"""The process of a code server: gets Dagster's instance ready, then is Dagster's gRPC server of one code location.

`python -m cryptolake_assets.defs.code_server LOCATION ADDRESS…`; the address is in the words of `dagster api grpc`. The
process of each run imports this module again before its own work: what is heavy is imported in functions.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from typing import NoReturn

from cryptolake_assets.errors import CryptolakeError
from cryptolake_assets.log import configure_logging
from cryptolake_assets.platform.code_servers import CodeLocation, location_named
from cryptolake_assets.settings import PROJECT_ROOT, Settings, get_settings


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve until the process is told to stop."""
    name, *address = arguments
    try:
        settings = get_settings()
        configure_logging(settings.log_level)
        location = location_named(name)
        prepare_instance(settings, location)
    except CryptolakeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    serve(location, address)


def prepare_instance(settings: Settings, location: CodeLocation) -> None:
    """Make the instance's databases and the pools, and cancel the location's orphaned runs.

    One code server at a time: two processes that make the databases at once leave them broken.
    """
    import dagster as dg
    from filelock import FileLock

    from cryptolake_assets.defs.instance.orphaned_runs import cancel_orphaned_runs
    from cryptolake_assets.defs.instance.pools import ensure_pools

    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(settings.run_dir / "dagster-instance.lock"),
        dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance,
    ):
        ensure_pools(instance)
        cancel_orphaned_runs(settings, instance, location.name)


def serve(location: CodeLocation, address: Sequence[str]) -> NoReturn:
    """Become the server itself, without the proxy of `dagster code-server`: at rest, two proxies cost 3 % of a core.

    Code that does not load ends no server: the webserver tells what failed.
    """
    sys.argv = [
        *("dagster", "api", "grpc"),
        *("--use-python-environment-entry-point", "--lazy-load-user-code", "--log-level", "warning", *address),
        *("--location-name", location.name, "--module-name", location.module),
        *("--working-directory", str(PROJECT_ROOT)),
    ]
    runpy.run_module("dagster", run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
