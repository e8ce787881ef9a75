"""GraphQL client of the running Dagster webserver."""

from __future__ import annotations

from typing import Any

from cryptolake_assets.errors import PartError
from cryptolake_assets.model.mart_tables import MARTS_NAMESPACE
from cryptolake_assets.platform.notify import cause_line, first_line
from cryptolake_assets.platform.targets import Partitions, Target
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
_ASSET_NAMES = "{ assetNodes { assetKey { path } } }"
_ASSET = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { __typename ... on AssetNode {
    isMaterializable partitionDefinition { fmt } partitionKeys } } }
"""
_FAILURES = """
query ($id: ID!, $after: String) { logsForRun(runId: $id, afterCursor: $after) { __typename ... on EventConnection {
    cursor hasMore events { __typename
      ... on ExecutionStepFailureEvent { stepKey failureMetadata { description } error { message causes { message } } }
      ... on RunFailureEvent { message error { message causes { message } } } } } } }
"""
ASSET_JOB = "__ASSET_JOB"
LOCATION = "cryptolake"
MARTS_LOCATION = "cryptolake_marts"
REPOSITORY = "__repository__"


def location_of(asset_key: list[str]) -> str:
    """Return the code location of `workspace.yaml` that defines the asset."""
    return MARTS_LOCATION if asset_key[0] == MARTS_NAMESPACE else LOCATION


def ask(settings: Settings, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the `data` of a GraphQL response.

    Raises `PartError` if the webserver cannot be reached or rejects the request.
    """
    import httpx

    url = f"{settings.dagster_address}/graphql"
    try:
        response = httpx.post(
            url, json={"query": query, "variables": variables or {}}, timeout=TIMEOUT_S, trust_env=False
        ).json()
        errors, data = response.get("errors"), response.get("data")
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        raise PartError(
            f"dagster-webserver: no response from {url} ({type(error).__name__}). Start it with `cryptolake up`."
        ) from None
    if errors or not isinstance(data, dict):
        cause = "; ".join(str(error.get("message")) for error in errors or ()) or "no data"
        raise PartError(f"dagster-webserver: request rejected: {cause}. See `cryptolake logs dagster-webserver`.")
    return data


def location_errors(settings: Settings) -> list[str]:
    """Return the errors with which Dagster failed to load the project's definitions; empty if it loaded them."""
    workspace = ask(settings, _LOCATION_ERRORS)["workspaceOrError"]
    if "locationEntries" not in workspace:
        return [str(workspace.get("message"))]
    loads = [entry["locationOrLoadError"] or {} for entry in workspace["locationEntries"]]
    return [str(load["message"]) for load in loads if load.get("__typename") == "PythonError"]


def asset_names(settings: Settings) -> list[str]:
    """Return the names of all assets of the graph. Raises `PartError` if Dagster did not load all code locations."""
    if errors := location_errors(settings):
        raise PartError(
            f"dagster: not all code locations are loaded: {'; '.join(first_line(error) for error in errors)}. "
            "See `cryptolake status`, then `cryptolake logs` of the code servers."
        )
    return ["/".join(node["assetKey"]["path"]) for node in ask(settings, _ASSET_NAMES)["assetNodes"]]


def find_target(settings: Settings, asset_key: list[str]) -> Target | None:
    """Return an asset of the running platform with its current partitions; None for an unknown asset."""
    node = ask(settings, _ASSET, {"key": {"path": asset_key}})["assetNodeOrError"]
    if "isMaterializable" not in node:
        return None
    definition = node["partitionDefinition"]
    partitions = None if definition is None else Partitions(node["partitionKeys"], definition["fmt"])
    return Target("/".join(asset_key), node["isMaterializable"], partitions)


def failure_cause(settings: Settings, run_id: str) -> str:
    """Return the cause of a failed run: its first failed step and the first line of the innermost error."""
    run_cause, after = "Dagster recorded no cause", None
    while True:
        log = ask(settings, _FAILURES, {"id": run_id, "after": after})["logsForRun"]
        for event in log.get("events", ()):
            if event["__typename"] == "ExecutionStepFailureEvent":
                description = (event["failureMetadata"] or {}).get("description")
                return f"{event['stepKey']}: {cause_line(description or _innermost(event['error']))}"
            if event["__typename"] == "RunFailureEvent":
                run_cause = cause_line(_innermost(event["error"]) or event["message"])
        if not log.get("hasMore"):
            return run_cause
        after = log["cursor"]


def _innermost(error: dict[str, Any] | None) -> str:
    """Return the message of an error's innermost cause."""
    return "" if error is None else str((error["causes"] or [error])[-1]["message"])


def launch_asset(settings: Settings, asset_key: list[str], partition: str | None) -> str:
    """Launch a run of one partition of an asset (None: no partitions) on the running platform; return the run's id.

    Raises `PartError` with Dagster's reason if Dagster rejects the launch.
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
            f"dagster: the run of {'/'.join(asset_key)} [{partition}] was rejected: "
            f"{'; '.join(messages)}. Check the asset's name and the partition."
        )
    return str(result["run"]["runId"])


def run_status(settings: Settings, run_id: str) -> str:
    """Return a run's Dagster status (`QUEUED`, `STARTED`, `SUCCESS`, …). Raises `PartError` for an unknown run."""
    run = ask(settings, _RUN_STATUS, {"id": run_id})["runOrError"]
    if "status" not in run:
        raise PartError(f"dagster: unknown run {run_id} ({run.get('message', run['__typename'])}).")
    return str(run["status"])
