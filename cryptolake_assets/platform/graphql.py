"""Questions and orders to the running Dagster webserver."""

from __future__ import annotations

from typing import Any

from cryptolake_assets.errors import PartError
from cryptolake_assets.lake.tables import MARTS_NAMESPACE
from cryptolake_assets.settings import Settings

TIMEOUT_S = 20.0
RUN_URL = "{address}/runs/{run_id}"

_LOCATION_ERRORS = """
{ workspaceOrError { __typename ... on PythonError { message } ... on Workspace { locationEntries {
    name locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""
_LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on PipelineNotFoundError { message }
    ... on InvalidSubsetError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }
"""
_RUN_STATUS = """
query ($id: ID!) { runOrError(runId: $id) { __typename ... on Run { status } ... on PythonError { message } } }
"""
ASSET_JOB = "__ASSET_JOB"
LOCATION = "cryptolake"
MARTS_LOCATION = "cryptolake_marts"
REPOSITORY = "__repository__"


def location_of(asset_key: list[str]) -> str:
    """The code location of `workspace.yaml` that defines the asset."""
    return MARTS_LOCATION if asset_key[0] == MARTS_NAMESPACE else LOCATION


def ask(settings: Settings, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """The `data` of a GraphQL answer. Raises `PartError` when the webserver cannot be reached or refuses."""
    import httpx

    url = f"{settings.dagster_address}/graphql"
    try:
        answer = httpx.post(
            url, json={"query": query, "variables": variables or {}}, timeout=TIMEOUT_S, trust_env=False
        ).json()
        errors, data = answer.get("errors"), answer.get("data")
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        raise PartError(
            f"dagster-webserver: it does not answer at {url} ({type(error).__name__}). Start it with `cryptolake up`."
        ) from None
    if errors or not isinstance(data, dict):
        cause = "; ".join(str(error.get("message")) for error in errors or ()) or "no data"
        raise PartError(f"dagster-webserver: it refused a request: {cause}. See `cryptolake logs dagster-webserver`.")
    return data


def location_errors(settings: Settings) -> list[str]:
    """Why Dagster could not load the project's definitions; empty if it could."""
    workspace = ask(settings, _LOCATION_ERRORS)["workspaceOrError"]
    if "locationEntries" not in workspace:
        return [str(workspace.get("message"))]
    loads = [entry["locationOrLoadError"] or {} for entry in workspace["locationEntries"]]
    return [str(load["message"]) for load in loads if load.get("__typename") == "PythonError"]


def launch_asset(settings: Settings, asset_key: list[str], partition: str | None) -> str:
    """Launches a run of one asset's partition (None: it has none) on the running platform; returns the run's id.

    Raises `PartError` with Dagster's reason when it is refused.
    """
    selector = {
        "repositoryLocationName": location_of(asset_key),
        "repositoryName": REPOSITORY,
        "pipelineName": ASSET_JOB,
        "assetSelection": [{"path": asset_key}],
    }
    tags = [{"key": "dagster/partition", "value": partition}] if partition else []
    params = {"selector": selector, "mode": "default", "runConfigData": {}, "executionMetadata": {"tags": tags}}
    result = ask(settings, _LAUNCH, {"params": params})["launchRun"]
    if result["__typename"] != "LaunchRunSuccess":
        items = result.get("errors") or [result]
        messages = [str(item.get("message") or "no reason given").splitlines()[0].rstrip(".") for item in items]
        raise PartError(
            f"dagster: the run of {'/'.join(asset_key)} [{partition}] was refused: "
            f"{'; '.join(messages)}. Check the asset's name and the partition."
        )
    return str(result["run"]["runId"])


def run_status(settings: Settings, run_id: str) -> str:
    """A run's status in Dagster's words (`QUEUED`, `STARTED`, `SUCCESS`, …)."""
    run = ask(settings, _RUN_STATUS, {"id": run_id})["runOrError"]
    if "status" not in run:
        raise PartError(f"dagster: run {run_id} is not known ({run.get('message', run['__typename'])}).")
    return str(run["status"])
