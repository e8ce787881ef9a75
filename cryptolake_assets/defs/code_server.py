"""The process of a code server: prepares Dagster's instance, then runs Dagster's gRPC server of one code location.

`python -m cryptolake_assets.defs.code_server LOCATION ADDRESS…`, with the address as options of `dagster api grpc`.
Each run's process imports this module too, so heavy packages are imported inside functions.
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
    """Serve until the process is stopped."""
    name, *address = arguments
    try:
        settings = get_settings()
        configure_logging(settings.log_level)
        location = location_named(name)
        prepare_instance(settings, location)
    except CryptolakeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    watch_runs(settings, location)
    serve(location, address)


def prepare_instance(settings: Settings, location: CodeLocation) -> None:
    """Create the instance's databases and the pools, move a Spot home's history, cancel the location's orphaned runs.

    A lock serializes the code servers: two processes that create the databases at once corrupt them.
    """
    import dagster as dg
    from filelock import FileLock

    from cryptolake_assets.defs.instance.orphaned_runs import cancel_orphaned_runs
    from cryptolake_assets.defs.instance.pools import ensure_pools
    from cryptolake_assets.defs.instance.spot_history import move_spot_history

    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(settings.run_dir / "dagster-instance.lock"),
        dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance,
    ):
        ensure_pools(instance)
        move_spot_history(settings, instance)
        cancel_orphaned_runs(settings, instance, location.name)


def watch_runs(settings: Settings, location: CodeLocation) -> None:
    """Cancel the location's runs that lose their process while this process serves."""
    from cryptolake_assets.defs.instance.orphaned_runs import watch_orphaned_runs

    watch_orphaned_runs(settings, location.name)


def serve(location: CodeLocation, address: Sequence[str]) -> NoReturn:
    """Run the server itself, without the proxy of `dagster code-server`: two idle proxies cost 3 % of a core.

    The server keeps running if the code fails to load; the webserver shows the error.
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
