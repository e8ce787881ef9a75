"""dbt with the project's settings: the `cryptolake dbt` command, and the manifest that Dagster loads.

A command that reads tables gets its own Spark Connect session and pinned snapshots of its sources, the same for all
its models and tests: the next command reads rows published while this one runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from cryptolake_assets.errors import CryptolakeError, DbtError
from cryptolake_assets.model.family_tables import FUTURES, SPOT
from cryptolake_assets.model.source_tables import SILVER_COINGECKO_GLOBAL, SILVER_FEAR_GREED
from cryptolake_assets.model.table_spec import TableSpec
from cryptolake_assets.settings import PROJECT_ROOT, Settings, get_settings

PROJECT_DIR = PROJECT_ROOT / "dbt_project"
EXECUTABLE = Path(sys.executable).parent / "cryptolake-dbt"  # runs this module, for dagster-dbt

# Environment variables from which the macro `at_snapshot` reads the snapshot id of each source.
SNAPSHOT_VARIABLES = {
    "CRYPTOLAKE_SILVER_SNAPSHOT": FUTURES.bars,
    "CRYPTOLAKE_SPOT_SILVER_SNAPSHOT": SPOT.bars,
    "CRYPTOLAKE_GOLD_SNAPSHOT": FUTURES.daily,
    "CRYPTOLAKE_SPOT_GOLD_SNAPSHOT": SPOT.daily,
    "CRYPTOLAKE_FEAR_GREED_SNAPSHOT": SILVER_FEAR_GREED,
    "CRYPTOLAKE_COINGECKO_SNAPSHOT": SILVER_COINGECKO_GLOBAL,
}

NO_SNAPSHOT = "none"  # for an empty table; the macro then reads no rows

WITHOUT_SPARK = ("parse", "list", "ls", "deps", "clean", "init")
_GENERATED = ("target", "logs", "dbt_packages", ".user.yml")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run dbt with these arguments and exit with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    settings = get_settings()
    for name, value in environment(settings).items():
        os.environ.setdefault(name, value)
    try:
        if needs_spark(arguments):
            _run_with_spark(settings, arguments)
        _run(arguments)
    except CryptolakeError as error:
        print(error, file=sys.stderr)  # noqa: T201  the message of a command
        raise SystemExit(1) from None


def needs_spark(arguments: Sequence[str]) -> bool:
    """Return whether the command reads or writes tables; `--help` and `--version` do not."""
    command = next((word for word in arguments if not word.startswith("-")), None)
    return command is not None and command not in WITHOUT_SPARK and not {"--help", "-h"} & set(arguments)


def _run_with_spark(settings: Settings, arguments: list[str]) -> None:
    from cryptolake_assets.lake.spark_session import connect

    # With pyspark's own variable, dbt's adapter gets this session on every thread.
    os.environ["SPARK_REMOTE"] = settings.spark_connect_url
    session = connect(settings)
    try:
        os.environ.update(pinned_snapshots(settings))
        _run(arguments)
    finally:
        session.stop()


def _run(arguments: list[str]) -> None:
    """Run dbt's command line, which raises `SystemExit` at its end."""
    import warnings

    from dbt.cli.main import cli

    # For every statement dbt's adapter tries to enable Hive, which a running server does not allow.
    warnings.filterwarnings("ignore", message="Failed to set spark.sql.catalogImplementation")
    cli.main(args=arguments, prog_name="cryptolake dbt")


def pinned_snapshots(settings: Settings) -> dict[str, str]:
    """Return the current snapshot id of each source by environment variable, `NO_SNAPSHOT` for an empty table."""
    from cryptolake_assets.lake.catalog import load_table

    def current(spec: TableSpec) -> str:
        snapshot = load_table(settings, spec).current_snapshot()
        return str(snapshot.snapshot_id) if snapshot is not None else NO_SNAPSHOT

    return {name: os.environ.get(name) or current(spec) for name, spec in SNAPSHOT_VARIABLES.items()}


def environment(settings: Settings) -> dict[str, str]:
    """Return dbt's settings as environment variables; variables that a user set take precedence."""
    return {
        "DBT_PROJECT_DIR": str(PROJECT_DIR),
        "DBT_PROFILES_DIR": str(PROJECT_DIR),
        "DBT_TARGET_PATH": str(settings.home / "dbt" / "target"),
        "DBT_LOG_PATH": str(settings.log_dir),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


def ensure_manifest(settings: Settings) -> Path:
    """Return the path of the current manifest; parse the project again if a file or dbt's version has changed.

    Uses neither network nor Spark. Raises `DbtError` with dbt's output if the project cannot be parsed.
    """
    from filelock import FileLock

    directory = settings.lib_dir / "dbt"
    manifest, stamp = directory / "manifest.json", directory / "manifest.sha256"
    expected = fingerprint()
    if _read(stamp) == expected and manifest.exists():
        return manifest
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "manifest.lock"):
        if _read(stamp) != expected or not manifest.exists():
            _parse(settings, directory)
            stamp.write_text(expected, encoding="utf-8")
    return manifest


def _parse(settings: Settings, directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as target:
        overrides = {"DBT_TARGET_PATH": target, "DBT_LOG_PATH": target}
        result = subprocess.run(
            [sys.executable, "-m", "cryptolake_assets.platform.dbt", "parse", "--no-partial-parse"],
            env={**os.environ, **environment(settings), **overrides},
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            output = (result.stdout + result.stderr).strip()[-2_000:]
            raise DbtError(f"dbt: {PROJECT_DIR} could not be parsed. Correct the errors that dbt reports:\n{output}")
        shutil.move(Path(target) / "manifest.json", directory / "manifest.json")


def fingerprint() -> str:
    """Return a hash of the project's files and of dbt's version."""
    digest = hashlib.sha256(f"{version('dbt-core')} {version('dbt-spark')}".encode())
    for path in project_files():
        digest.update(f"{path.relative_to(PROJECT_DIR)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def project_files() -> Iterator[Path]:
    """Yield the project's files in order, without dbt's own output."""
    for path in sorted(PROJECT_DIR.rglob("*")):
        if path.is_file() and path.relative_to(PROJECT_DIR).parts[0] not in _GENERATED:
            yield path


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    main()
