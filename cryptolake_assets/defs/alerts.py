"""The sensors that alert on failed and recovered runs. Thin adapters of `instance.run_alerts` and `platform.notify`."""

from typing import TYPE_CHECKING

import dagster as dg
import structlog

from cryptolake_assets.defs.graph import Graph
from cryptolake_assets.log import configure_logging

if TYPE_CHECKING:
    from cryptolake_assets.platform.notify import Alert
    from cryptolake_assets.settings import Settings

INTERVAL_S = 60


def send_alert(settings: "Settings", alert: "Alert | None") -> None:
    """Send the alert, if any, from a sensor's process."""
    from cryptolake_assets.platform.notify import notify

    if alert is None:
        return
    if not structlog.is_configured():  # a code server's own process
        configure_logging(settings.log_level)
    notify(settings, alert)


def definitions(graph: Graph) -> dg.Definitions:
    """Return the sensors for failed and recovered runs."""

    @dg.run_failure_sensor(
        name="run_failures",
        minimum_interval_seconds=INTERVAL_S,
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Alerts on failed runs of all code locations: in the log and at CRYPTOLAKE_NOTIFY_URLS.",
    )
    def run_failures(context: dg.RunFailureSensorContext) -> None:
        from cryptolake_assets.defs.instance.run_alerts import failure_alert

        send_alert(graph.settings, failure_alert(graph.settings, context.instance, context.dagster_run))

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name="run_recoveries",
        minimum_interval_seconds=INTERVAL_S,
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Alerts when a run that `run_failures` reported succeeds again.",
    )
    def run_recoveries(context: dg.RunStatusSensorContext) -> None:
        from cryptolake_assets.defs.instance.run_alerts import recovery_alert

        send_alert(graph.settings, recovery_alert(graph.settings, context.instance, context.dagster_run))

    return dg.Definitions(sensors=[run_failures, run_recoveries])
