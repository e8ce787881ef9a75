"""The repository: documents match the code, lock files are complete, modules and workflows follow the rules."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cryptolake_assets import cli, settings
from cryptolake_assets.model.tables import TABLES
from cryptolake_assets.platform.jars import LOCK_FILE, locked_jars
from cryptolake_tests.support.documents import commands

ROOT = settings.PROJECT_ROOT
PACKAGE = ROOT / "cryptolake_assets"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), PACKAGE / "captures/demo_capture/README.md"])
MODULES = sorted(
    path
    for folder in (PACKAGE, ROOT / "cryptolake_tests", ROOT / "reliability", ROOT / "scripts")
    for path in folder.rglob("*.py")
)
MAX_LINES = 450

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_VARIABLE = re.compile(r"\b(?:CRYPTOLAKE|KAFKA|SPARK|ICEBERG|MINIO)_[A-Z0-9_]*[A-Z0-9]\b(?!…|_)")
_TABLE_NAME = re.compile(r"(?<!/)\b(?:bronze|silver|gold|ops)\.[a-z][a-z0-9_]+\b")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def cryptolake_commands() -> list[tuple[str, list[str]]]:
    """Return each command once, with the first document that shows it."""
    found = {
        tuple(words[1:]): relative(path)
        for path in reversed(DOCUMENTS)
        for words in commands(path)
        if words[0] in ("cryptolake", ".venv/bin/cryptolake") and len(words) > 1
    }
    return [(document, list(words)) for words, document in found.items()]


def make_targets() -> list[tuple[str, str]]:
    return sorted(
        {
            (relative(path), word)
            for path in DOCUMENTS
            for words in commands(path)
            if words[0] == "make"
            for word in words[1:]
            if "=" not in word
        }
    )


@cache
def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_patterns_of_these_tests_match_existing_text() -> None:
    """A pattern without any match would let every document and module pass."""
    assert {"README.md", "docs/api.md", "cryptolake_assets/captures/demo_capture/README.md"} <= set(
        map(relative, DOCUMENTS)
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert any(link.startswith("docs/") for link in _LINK.findall(readme))
    assert "silver.futures_ohlcv_1m" in _TABLE_NAME.findall(readme)
    assert "CRYPTOLAKE_SOURCE" in _VARIABLE.findall("".join(path.read_text(encoding="utf-8") for path in DOCUMENTS))
    assert {PACKAGE / "settings/__init__.py", ROOT / "cryptolake_tests/conftest.py", ROOT / "scripts/setup.py"} <= set(
        MODULES
    )
    (statement,) = ast.parse("from cryptolake_tests.api import x").body
    assert isinstance(statement, ast.ImportFrom)
    assert _imported(statement) == ["cryptolake_tests.api"]


def test_documents_show_commands() -> None:
    assert {"demo", "test"} <= {target for document, target in make_targets() if document == "README.md"}
    assert {"up", "sql", "materialize"} <= {words[0] for _, words in cryptolake_commands()}


@pytest.mark.parametrize(("document", "target"), make_targets())
def test_make_target_in_document_exists(document: str, target: str) -> None:
    assert target in makefile_targets(), f"{document}: make {target}"


@pytest.mark.parametrize(
    ("document", "words"), [pytest.param(*item, id=" ".join([item[0], *item[1][:2]])) for item in cryptolake_commands()]
)
def test_cryptolake_command_in_document_is_valid(document: str, words: list[str]) -> None:
    # The parser rejects unknown commands and options before it handles `--help`; no command runs.
    result = CliRunner().invoke(cli.app, [*words, "--help"])
    assert result.exit_code == 0, f"{document}: cryptolake {' '.join(words)}: {result.output}"


def test_unknown_command_or_option_is_detected() -> None:
    for words in (["nonsense"], ["status", "--nonsense"]):
        assert CliRunner().invoke(cli.app, [*words, "--help"]).exit_code != 0


def test_makefile_describes_every_public_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert makefile_targets() - described == {"need-docker", "need-partition"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_between_documents_resolve(path: Path) -> None:
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{relative(path)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{relative(path)} links to {link}"


def anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown file's headings."""
    headings = _HEADING.findall(path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_tables_and_settings_in_document_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tables = {f"{table.namespace}.{table.name}" for table in TABLES}
    assert set(_TABLE_NAME.findall(text)) <= tables
    variables = {settings.env_name(name) for name in settings.Settings.model_fields}
    assert set(_VARIABLE.findall(text)) <= variables


def test_path_of_a_trade_names_at_most_25_existing_files() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `([a-z_/]+\.py)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert 15 < len(rows) <= 25
    for _, path in rows:
        assert (PACKAGE / path).is_file(), path


def test_private_dagster_api_is_used_only_as_decision_39_allows() -> None:
    found = {
        relative(path) for path in MODULES if re.search(r"(?:from|import) dagster\._", path.read_text(encoding="utf-8"))
    }
    allowed = {
        "cryptolake_assets/defs/instance/check_states.py",
        "cryptolake_assets/defs/instance/retention.py",
        "cryptolake_assets/defs/instance/spot_history.py",
        "scripts/validate.py",
    }
    assert {path for path in found if not path.startswith("cryptolake_tests/")} == allowed


def test_readme_is_short_and_names_the_main_tables() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    assert {"cryptolake.bronze.futures_trades", "cryptolake.silver.futures_ohlcv_1m"} <= set(
        re.findall(r"`(\S+)`", text)
    )


def test_every_decision_is_linked() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    decisions = {path.name for path in (ROOT / "docs/decisions").glob("*.md")}
    assert decisions
    assert {name for name in decisions if f"decisions/{name})" not in texts} == set()


def test_demo_picture_loads_no_external_resource_and_shows_equal_bars() -> None:
    picture = (ROOT / "docs/images/demo.svg").read_text(encoding="utf-8")
    assert not re.search(r"url\(\s*[\"']?https?:|<image|<script", picture)
    assert picture.count(">equal<") == 14


def test_every_lock_file_written_by_make_exists() -> None:
    written = set(re.findall(r"-o requirements/(\S+\.lock)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert written == {path.name for path in (ROOT / "requirements").glob("*.lock")}


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "requirements").glob("*.lock"))])
def test_lock_file_pins_every_package_by_hash_without_urls(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    entries = [entry for entry in lines.replace("\\\n", " ").splitlines() if entry.strip()]
    assert entries
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,._-]+\])?==\S+ ", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry[:80]


def test_every_dependency_of_the_project_is_locked() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locks = {"requirements/base.lock": project["dependencies"]}
    extras = project["optional-dependencies"]
    locks["requirements/fast.lock"] = project["dependencies"] + extras["fast"]
    locks["requirements/cluster.lock"] = project["dependencies"] + extras["cluster"]
    # Tests run with all packages that users may install.
    locks["requirements/dev.lock"] = project["dependencies"] + extras["dev"] + extras["fast"]
    for lock, requirements in locks.items():
        locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))
        required = {re.split(r"[\[=<>~! ;]", requirement)[0].lower() for requirement in requirements}
        assert required <= locked


def test_jars_are_pinned_by_checksum_without_urls() -> None:
    assert "://" not in LOCK_FILE.read_text(encoding="utf-8")
    assert locked_jars()
    for jar in locked_jars():
        assert re.fullmatch(r"[0-9a-f]{64}", jar.sha256), jar.coordinate
        assert jar.size_bytes > 0
        assert "SNAPSHOT" not in jar.version


def test_no_test_module_imports_another() -> None:
    paths = sorted((ROOT / "cryptolake_tests").rglob("*.py"))
    offenders = [
        f"{relative(path)}: {name}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _imported(node)
        if name.startswith(".") or (name.startswith("cryptolake_tests") and name.split(".")[1:2] != ["support"])
    ]
    assert offenders == [], "move code shared by test modules to cryptolake_tests/support"


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the modules that a statement imports; relative ones start with a dot."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    module = "." * node.level + (node.module or "")
    return [f"{module}.{alias.name}" if module == "cryptolake_tests" else module for alias in node.names]


def test_every_module_has_a_docstring() -> None:
    assert [
        relative(path)
        for path in MODULES
        if (text := path.read_text(encoding="utf-8")).strip() and not ast.get_docstring(ast.parse(text))
    ] == []


def test_no_module_is_too_long() -> None:
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES
        if PACKAGE in path.parents
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def workflow_steps(name: str) -> list[dict[str, str]]:
    workflow = yaml.safe_load((ROOT / ".github/workflows" / name).read_text(encoding="utf-8"))
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def make_calls(steps: list[dict[str, str]]) -> set[str]:
    return {step["run"].removeprefix("make ") for step in steps if step.get("run", "").startswith("make ")}


def test_workflows_call_existing_make_targets_and_pin_their_actions() -> None:
    in_ci, nightly = workflow_steps("ci.yml"), workflow_steps("nightly.yml")
    required = {"setup", "lint", "types", "validate", "test-unit", "test-integration", "test-cluster", "demo", "down"}
    assert required <= make_calls(in_ci) <= makefile_targets()
    assert {"nightly"} <= make_calls(nightly) <= makefile_targets()
    actions = [step["uses"] for step in [*in_ci, *nightly] if "uses" in step]
    assert len(actions) >= 4
    for action in actions:
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*", action), action


def test_ci_script_calls_existing_make_targets() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    called = set(re.findall(r"\bmake ([a-z-]+)", script))
    assert {"setup", "lint", "types", "test", "demo", "down"} <= called <= makefile_targets()


def test_pre_commit_uses_local_hooks_only() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert {"ruff-check", "ruff-format", "mypy"} <= {hook["id"] for hook in hooks}
