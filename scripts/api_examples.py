"""Write the example responses of the OpenAPI document, from the running API of the current settings.

.venv/bin/python -m scripts.api_examples             after `make demo` and `make dbt`
.venv/bin/python -m scripts.api_examples /coins …     only these routes; the others stay

The demo has no responses of CoinGecko: recorded ones are in `cryptolake_tests/ingest/recorded`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx

from cryptolake_assets.api import schemas
from cryptolake_assets.settings import get_settings

SYMBOL, TIMEFRAME = "BTCUSDT", "1m"
ROWS = 1  # rows per page
ITEMS = 2  # items of any other list


def main(selected: list[str]) -> None:
    settings = get_settings()
    key = settings.dashboard_api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=settings.api_url, headers=headers, trust_env=False, timeout=60) as api:
        paths = api.get("/openapi.json").raise_for_status().json()["paths"]
        known = schemas.examples()
        found = {
            path: example(api, path, methods["get"]) if not selected or path in selected else known[path]
            for path, methods in paths.items()
        }
    lines = ",\n".join(f"  {json.dumps(path)}: {json.dumps(response)}" for path, response in found.items())
    schemas.EXAMPLES.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"wrote {schemas.EXAMPLES.relative_to(Path.cwd())}")


def example(api: httpx.Client, path: str, operation: dict[str, Any]) -> Any:
    """Return a short response of a path: parsed JSON, any other text as a string."""
    required = {parameter["name"]: parameter.get("required", False) for parameter in operation.get("parameters", ())}
    query = {"limit": str(ROWS)} if "limit" in required else {}
    query |= {name: SYMBOL for name in ("symbol", "symbols") if required.get(name)}
    with api.stream("GET", path.format(timeframe=TIMEFRAME), params=query) as response:
        response.raise_for_status()
        kind = response.headers["content-type"].partition(";")[0]
        if kind == "text/event-stream":
            return first_event(response)
        response.read()
    return shortened(response.json()) if kind == "application/json" else first_samples(response.text)


def shortened(value: Any) -> Any:
    """Return the value with every list cut to its first `ITEMS` items."""
    if isinstance(value, dict):
        return {name: shortened(item) for name, item in value.items()}
    return [shortened(item) for item in value[:ITEMS]] if isinstance(value, list) else value


def first_event(response: httpx.Response) -> str:
    """Return the first event of an endless event stream."""
    lines = []
    for line in response.iter_lines():
        lines.append(line)
        if not line:
            break
    return "\n".join([*lines, ""])


def first_samples(metrics: str) -> str:
    """Return each metric's help, type and first sample."""
    lines: list[str] = []
    for line in metrics.splitlines():
        if line.startswith("#") or lines[-1].startswith("#"):
            lines.append(line)
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(sys.argv[1:])
