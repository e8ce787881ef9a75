"""Set up the environment: .venv with the locked packages, a Java if none is suitable, and the pinned jars.

Needs only Python 3.11 to 3.13. Idempotent: unchanged parts are skipped. `--dev` adds the packages of tests and
checks, `--bench` those that benchmarks compare with. Downloads use pip and Ivy, so their settings (PIP_*,
SSL_CERT_FILE, https_proxy) apply.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = VENV / "cryptolake"
OLDEST, NEWEST = (3, 11), (3, 13)

# Measured download sizes of the locks on Linux and Python 3.11; other systems differ by a few MB.
PACKAGES_SIZE = "710 MB, including 455 MB for Spark"
EXTRAS = {
    "dev": ("tests and checks", "85 MB"),
    "bench": ("benchmarks", "60 MB"),
    "mutate": ("mutation tests", "20 MB"),
    "fast": ("a faster producer", "6 MB"),
    "cluster": ("PostgreSQL", "5 MB"),
}
JAVA_SIZE = "34 MB"


def main(arguments: list[str]) -> None:
    check_python()
    make_venv()
    lock = ROOT / "requirements/base.lock"
    if changed("packages", lock):
        report(f"Python packages: downloading about {PACKAGES_SIZE}, into {VENV} (takes a few minutes)")
        pip_install(lock)
        remember("packages", lock)
    if changed("project", ROOT / "pyproject.toml"):
        report("Installing CryptoLake into .venv")
        pip("install", "--no-deps", "--quiet", "--editable", str(ROOT))
        remember("project", ROOT / "pyproject.toml")
    extras = [extra for extra in EXTRAS if f"--{extra}" in arguments]
    for extra in extras:
        purpose, size = EXTRAS[extra]
        extra_lock = ROOT / f"requirements/{extra}.lock"
        if changed(extra, extra_lock):
            report(f"Packages for {purpose}: downloading about {size}")
            pip_install(extra_lock)
            remember(extra, extra_lock)
    if extras:
        return
    if not has_java():
        report(f"Java: no version 17 or 21 on this machine; downloading one, {JAVA_SIZE}, into {VENV}")
        pip_install(ROOT / "requirements/jvm.lock")
    run(str(venv_python()), "-m", "cryptolake_assets.cli", "setup")
    (STAMPS / "ready").write_text(time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))


def check_python() -> None:
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        fail(
            f"Python {sys.version.split()[0]} ({sys.executable}) is not supported: 3.11, 3.12 or 3.13 is required. "
            "Choose one with `make setup PYTHON=/path/to/python3.11`."
        )


def make_venv() -> None:
    """Create .venv if it is missing, or if its Python is missing or unsuitable."""
    fits = f"import pip, sys; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    if works(str(venv_python()), "-c", fits):
        return
    report(f"Python {sys.version.split()[0]}: {VENV}")
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)]).returncode != 0:
        fail(
            f"{sys.executable} could not make a virtual environment. On Debian and Ubuntu, install the package "
            "python3-venv, then run `make setup` again."
        )


def has_java() -> bool:
    code = "from cryptolake_assets.platform.jvm import find_java; find_java()"
    return works(str(venv_python()), "-c", code)


def pip_install(lock: Path) -> None:
    # Without --no-deps, older pips in hash mode reject a package that a locked one requires with an extra.
    pip("install", "--no-deps", "--require-hashes", "--requirement", str(lock))


def pip(*arguments: str) -> None:
    run(str(venv_python()), "-m", "pip", "--disable-pip-version-check", *arguments)


def run(*command: str) -> None:
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        fail(f"command failed: {' '.join(command)}. Correct the cause (see above), then run `make setup` again.")


def works(*command: str) -> bool:
    """Return whether a command exits with 0; discard its output."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def changed(name: str, file: Path) -> bool:
    """Return whether `file` has changed since the last installation."""
    stamp = STAMPS / f"{name}.sha256"
    return not stamp.exists() or stamp.read_text() != fingerprint(file)


def remember(name: str, file: Path) -> None:
    STAMPS.mkdir(parents=True, exist_ok=True)
    (STAMPS / f"{name}.sha256").write_text(fingerprint(file))


def fingerprint(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def venv_python() -> Path:
    return VENV / "bin" / "python"


def report(text: str) -> None:
    print(f"==> {text}", flush=True)


def fail(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
