"""The sensors that tell people of failed runs, and of those that are well again. Thin adapters of
`platform.run_alerts` and `platform.notify`."""

import dagster as dg

from cryptolake_assets.settings import get_settings

INTERVAL_S = 15


@dg.run_failure_sensor(
    name="run_failures",
    minimum_interval_seconds=INTERVAL_S,
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of failed runs of all code locations: in the log, and where CRYPTOLAKE_NOTIFY_URLS says.",
)
def run_failures(context: dg.RunFailureSensorContext) -> None:
    from cryptolake_assets.platform.notify import notify
    from cryptolake_assets.platform.run_alerts import failure_alert

    settings = get_settings()
    alert = failure_alert(settings, context.instance, context.dagster_run)
    if alert is not None:
        notify(settings, alert)


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="run_recoveries",
    minimum_interval_seconds=INTERVAL_S,
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells when what `run_failures` told of has succeeded.",
)
def run_recoveries(context: dg.RunStatusSensorContext) -> None:
    from cryptolake_assets.platform.notify import notify
    from cryptolake_assets.platform.run_alerts import recovery_alert

    settings = get_settings()
    alert = recovery_alert(settings, context.instance, context.dagster_run)
    if alert is not None:
        notify(settings, alert)
