"""Run the documents' code blocks on the platform of the environment's settings, after `make demo`.

`make test-docs` runs this lane. Blocks under a `<!-- needs: … -->` comment are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.platform.status import problems
from cryptolake_assets.settings import PROJECT_ROOT, load_settings
from cryptolake_tests.support.code_blocks import CodeBlock, runnable_blocks

pytestmark = pytest.mark.documents
TIMEOUT_S = 280
PLATFORM = load_settings()  # read at import, because a fixture gives each test another home
BLOCKS = runnable_blocks()


@pytest.fixture(scope="module", autouse=True)
def running_platform() -> None:
    found = problems(PLATFORM)
    assert not found, f"run `make demo` first: {found}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in place of the user's home and of other paths in the documents."""
    return tmp_path_factory.mktemp("documents")


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, **PLATFORM.environment(), "HOME": str(directory)}


def adapted(text: str, directory: Path) -> str:
    """Replace the documented addresses and paths by those of this platform."""
    addresses = {8000: PLATFORM.api_port, 8090: PLATFORM.exchange_port}
    for documented, port in addresses.items():
        text = text.replace(f"http://127.0.0.1:{documented}", f"http://127.0.0.1:{port}")
    return text.replace("/backups/", f"{directory}/")


def run(*command: str, directory: Path) -> str:
    done = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=environment(directory),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return done.stdout


def run_shell(block: CodeBlock, directory: Path) -> None:
    for name in re.findall(r"keys create (\w+)", block.text):
        # A name has one key: an earlier run on this platform may have created it.
        subprocess.run(
            [".venv/bin/cryptolake", "keys", "revoke", name],
            cwd=PROJECT_ROOT,
            env=environment(directory),
            capture_output=True,
        )
    script = adapted(block.text, directory).replace("curl ", "curl --silent --show-error --fail ")
    printed = run("bash", "-euo", "pipefail", "-c", script, directory=directory)
    assert printed.strip() or "cryptolake" not in script


def run_python(block: CodeBlock, directory: Path) -> None:
    code = block.text.replace('"1m"', f'"1m", url="{PLATFORM.api_url}"')
    run(sys.executable, "-c", f"{code}\nassert len(bars), bars", directory=directory)


def run_queries(block: CodeBlock) -> None:
    parts = re.split(r"^--.*$|^(?=(?:SELECT|WITH) )", block.text, flags=re.MULTILINE)
    queries = [part for part in map(str.strip, parts) if part]
    assert queries
    for query in queries:
        assert run_sql(PLATFORM, query).column_names, query


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_code_block_runs(block: CodeBlock, directory: Path) -> None:
    match block.language:
        case "sh":
            run_shell(block, directory)
        case "python":
            run_python(block, directory)
        case "sql":
            run_queries(block)
