"""Commands on the data: topics, tables, the Bronze stream, runs of Dagster assets, SQL."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from cryptolake_assets.bronze.offsets import lags_in_use
from cryptolake_assets.cli.app import app
from cryptolake_assets.cli.market_option import MarketOption, settings_of
from cryptolake_assets.cli.output import OutputFormat, print_table
from cryptolake_assets.errors import PartError
from cryptolake_assets.lake.bootstrap import bootstrap as make_tables
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.settings import get_settings


class SqlEngine(StrEnum):
    """Engine that runs a user's SQL."""

    DUCKDB = "duckdb"
    SPARK = "spark"


@app.command()
def bootstrap() -> None:
    """Create missing namespaces and tables, and apply pending migrations. Idempotent."""
    typer.echo("\n".join(make_tables(get_settings())) or "all namespaces and tables exist and have the current schema")


@app.command()
def topics() -> None:
    """Create missing Kafka topics, and report topics that differ from the settings. Idempotent."""
    from cryptolake_assets.kafka.topics import ensure_topics, topic_differences

    settings = get_settings()
    for topic, created in ensure_topics(settings).items():
        typer.echo(f"{topic}: {'created' if created else 'exists'}")
    for difference in topic_differences(settings):
        typer.secho(difference, fg=typer.colors.YELLOW, err=True)


@app.command()
def lag(
    output: Annotated[OutputFormat, typer.Option("--format", help="Output format.")] = OutputFormat.TABLE,
) -> None:
    """Show the lag of Bronze by topic and partition: Kafka's end offset, Bronze's offset, lag in records."""
    import pyarrow as pa

    columns = ("topic", "partition", "end_offset", "bronze_offset", "records")
    lags = lags_in_use(get_settings())
    print_table(pa.table({name: [getattr(lag, name) for lag in lags] for name in columns}), output)


@app.command()
def peek(
    count: Annotated[int, typer.Option("-n", min=1, help="Number of records.")] = 10,
    rejected: Annotated[bool, typer.Option("--rejected", help="Read the dead-letter topic.")] = False,
    oldest: Annotated[bool, typer.Option("--oldest", help="Show the oldest records instead of the newest.")] = False,
    market: MarketOption = None,
) -> None:
    """Show records of a market's trade topic: partition, offset, Kafka timestamp, key, headers and value."""
    from cryptolake_assets.kafka.topics import peek as read

    settings = settings_of(market)
    topic = settings.topic_rejected if rejected else settings.topic_trades
    records = read(settings, topic, count, from_end=not oldest)
    for record in records:
        at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        headers = " ".join(f"{name}={value.decode('utf-8', 'backslashreplace')}" for name, value in record.headers)
        texts = [(item or b"").decode("utf-8", "backslashreplace") for item in (record.key, record.value)]
        typer.echo(" ".join(filter(None, [f"{record.partition}/{record.offset}", at, texts[0], headers, texts[1]])))
    if not records:
        typer.echo(f"{topic} is empty", err=True)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help='SQL, such as "SELECT * FROM cryptolake.gold.futures_daily_stats".')],
    output: Annotated[OutputFormat, typer.Option("--format", help="Output format.")] = OutputFormat.TABLE,
    engine: Annotated[SqlEngine, typer.Option(help="DuckDB in this process, or the Spark server.")] = SqlEngine.DUCKDB,
) -> None:
    """Run SQL on the tables; use their full names."""
    print_table(run_sql(get_settings(), query, engine.value), output)


@app.command("run-bronze")
def run_bronze() -> None:
    """Run the Bronze stream in the foreground until Ctrl-C."""
    from cryptolake_assets.bronze import stream as bronze

    raise typer.Exit(bronze.main())


@app.command("bronze-available-now")
def bronze_available_now() -> None:
    """Write the records that Kafka has now to Bronze, and exit."""
    from cryptolake_assets.bronze.stream import run_available_now

    typer.echo(f"{run_available_now(get_settings())} records written to Bronze")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def dbt(context: typer.Context) -> None:
    """Run dbt on the marts project with the configured Spark server: `cryptolake dbt build`."""
    from cryptolake_assets.platform.dbt import main

    main(context.args or ["--help"])


@app.command()
def materialize(
    asset: Annotated[str, typer.Argument(help="Asset key, such as silver/futures_ohlcv_1m.")],
    partition: Annotated[
        str | None,
        typer.Option(help="Partition, such as 2024-07-18-23:00 (hour) or 2024-07-18 (day), if the asset has any."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end of the run.")] = True,
) -> None:
    """Materialize one partition on the running platform, or in this process if none is running."""
    from cryptolake_assets.platform.runs import materialize_on_platform, platform_is_running

    settings = get_settings()
    if platform_is_running(settings):
        typer.echo(materialize_on_platform(settings, asset, partition, wait=wait, report=partial(typer.echo, err=True)))
    elif wait:
        from cryptolake_assets.defs.instance.local_run import materialize_here

        typer.echo(materialize_here(settings, asset, partition))
    else:
        raise PartError("platform: not running, but --no-wait requires it. Start it with `cryptolake up`.")
