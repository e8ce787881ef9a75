"""The lock file of the jars and the store of fetched jars; no network."""

from __future__ import annotations

import hashlib
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from cryptolake_assets.errors import DownloadError
from cryptolake_assets.platform import jars
from cryptolake_assets.platform.jars import Jar, JarStore, describe, failure_cause, ivy_xml, locked_jars, parse_lock
from cryptolake_assets.platform.spark_server import spark_home
from cryptolake_tests.support.natives import CATALOG_JARS

CONTENT = b"not really a jar"


def make_jar(name: str = "a", content: bytes = CONTENT) -> Jar:
    return Jar("kafka", "org.example", name, "1.0", hashlib.sha256(content).hexdigest(), len(content))


GROUPS = (jars.KAFKA, jars.SPARK, jars.STORE, CATALOG_JARS)
KAFKA_SOURCE_DEPENDENCIES = {
    *("spark-sql-kafka-0-10_2.13", "spark-token-provider-kafka-0-10_2.13", "kafka-clients", "commons-pool2"),
}
"""Dependencies of Spark's Kafka source that pyspark lacks; without one the stream fails at its first batch."""


@pytest.fixture
def store(tmp_path: Path) -> JarStore:
    """Return a store with two intact jars, checked."""
    made = JarStore(tmp_path / "lib", (make_jar("a"), make_jar("b")))
    for jar in made.jars:
        made.path(jar).parent.mkdir(parents=True, exist_ok=True)
        made.path(jar).write_bytes(CONTENT)
    made.mark_checked()
    return made


def test_shipped_lock_is_complete() -> None:
    by_group = {group: {jar.name for jar in locked_jars() if jar.group == group} for group in GROUPS}
    assert {jar.group for jar in locked_jars()} == set(GROUPS)
    broker = {"kafka_2.13", "kafka-server", "kafka-clients", "kafka-raft", "log4j-slf4j-impl", "scala-library"}
    assert broker <= by_group[jars.KAFKA]
    assert by_group[jars.SPARK] >= KAFKA_SOURCE_DEPENDENCIES | {"iceberg-spark-runtime-4.1_2.13", "sqlite-jdbc"}
    assert {"hadoop-aws", "spark-hadoop-cloud_2.13", "s3", "postgresql"} <= by_group[jars.STORE]
    assert by_group[CATALOG_JARS] == {"iceberg-open-api"}


def test_class_path_has_each_module_once() -> None:
    broker = [(jar.organisation, jar.name) for jar in locked_jars() if jar.group == jars.KAFKA]
    spark = [(jar.organisation, jar.name) for jar in locked_jars() if jar.group in (jars.SPARK, jars.STORE)]
    assert {module: count for module, count in [*Counter(broker).items(), *Counter(spark).items()] if count > 1} == {}
    pyspark_modules = {module_of(path.stem) for path in (spark_home() / "jars").glob("*.jar")}
    assert {"spark-core_2.13", "hadoop-client-api", "slf4j-api"} <= pyspark_modules
    assert {name for _, name in spark} & pyspark_modules == set(), "Spark would load two versions"


def test_related_jars_have_one_version() -> None:
    import pyspark

    versions: dict[tuple[str, str], set[str]] = {}
    for jar in locked_jars():
        versions.setdefault((jar.group, jar.organisation), set()).add(jar.version)
    assert len(versions[jars.KAFKA, "org.apache.kafka"]) == 1
    assert len(versions[jars.STORE, "software.amazon.awssdk"]) == 1
    assert versions[jars.SPARK, "org.apache.spark"] == {pyspark.__version__}
    assert versions[jars.STORE, "org.apache.spark"] == {pyspark.__version__}
    (hadoop,) = (spark_home() / "jars").glob("hadoop-client-api-*.jar")
    assert versions[jars.STORE, "org.apache.hadoop"] == {hadoop.stem.removeprefix("hadoop-client-api-")}
    iceberg = next(jar.name for jar in locked_jars() if jar.name.startswith("iceberg-spark-runtime"))
    assert iceberg == f"iceberg-spark-runtime-{'.'.join(pyspark.__version__.split('.')[:2])}_2.13"
    assert {name.rpartition("_")[2] for name in (jar.name for jar in locked_jars()) if "_2." in name} == {"2.13"}


def module_of(stem: str) -> str:
    """Return the module of a jar file's name: `spark-core_2.13` for `spark-core_2.13-4.1.1`."""
    return re.split(r"-(?=\d)", stem)[0] if not stem.startswith("log4j-1.2") else "log4j-1.2-api"


def test_number_and_size_are_readable() -> None:
    assert describe([make_jar("a")]) == "1 jar, 0 kB"
    assert describe([make_jar("a", b"x" * 1_400_000), make_jar("b", b"x" * 1_400_000)]) == "2 jars, 3 MB"


def test_lock_has_no_address() -> None:
    text = jars.LOCK_FILE.read_text() + Path(jars.__file__).read_text()
    assert "://" not in text


@pytest.mark.parametrize(
    "line",
    [
        "kafka org.example:a:1.0 abc 12",
        f"kafka org.example:a {'0' * 64} 12",
        f"kafka org.example:a:1.0 {'0' * 64} many",
        f"kafka org.example:a:1.0 {'0' * 64}",
    ],
)
def test_malformed_line_is_named(line: str) -> None:
    with pytest.raises(DownloadError, match=r"line 2 of jars\.lock"):
        parse_lock(f"# comment\n{line}\n")


def test_checked_jars_are_not_read_again(store: JarStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "sha256_of", lambda _: pytest.fail("a checked jar was read"))
    assert store.is_checked()


def test_missing_jar_is_detected(store: JarStore) -> None:
    store.path(store.jars[0]).unlink()
    assert not store.is_checked()
    assert store.missing() == [store.jars[0]]


def test_changed_jar_is_removed_and_reported_as_missing(store: JarStore) -> None:
    path = store.path(store.jars[1])
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(1, 1))
    assert not store.is_checked()
    assert store.missing() == [store.jars[1]]
    assert not path.exists()


def test_changed_lock_invalidates_the_check(store: JarStore) -> None:
    changed = JarStore(store.root.parent, (store.jars[0], make_jar("b", b"newer")))
    assert not changed.is_checked()
    assert changed.missing() == [changed.jars[1]]


def test_check_of_other_settings_keeps_that_of_these(store: JarStore) -> None:
    """Another process, such as one with tables on S3, needs more jars of the same directory."""
    wider = JarStore(store.root.parent, (*store.jars, make_jar("c")))
    assert not wider.is_checked()
    wider.path(wider.jars[2]).write_bytes(CONTENT)
    wider.mark_checked()
    assert wider.is_checked()
    assert store.is_checked()
    store.mark_checked()
    assert wider.is_checked()


def test_jar_outside_the_lock_is_removed(store: JarStore) -> None:
    stray = store.root / "kafka" / "old-0.9.jar"
    stray.write_bytes(CONTENT)
    assert store.missing() == []
    assert not stray.exists()


def test_fetched_file_is_installed_only_with_the_pinned_checksum(store: JarStore, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jar", tmp_path / "bad.jar"
    good.write_bytes(CONTENT)
    bad.write_bytes(b"<html>error page of a proxy</html>")
    store.install(store.jars[0], good)
    assert store.path(store.jars[0]).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=rf"org\.example:b:1\.0 has sha256 .* but {store.jars[1].sha256}"):
        store.install(store.jars[1], bad)
    assert not bad.exists()
    assert store.path(store.jars[1]).read_bytes() == CONTENT, "the wrong file does not replace it"
    with pytest.raises(DownloadError, match="was not downloaded"):
        store.install(store.jars[1], bad)


def test_ivy_file_requests_exactly_the_jars() -> None:
    module = ET.fromstring(ivy_xml(locked_jars()))  # noqa: S314  (our own text)
    dependencies = module.findall("dependencies/dependency")
    assert [(d.get("org"), d.get("name"), d.get("rev")) for d in dependencies] == [
        (jar.organisation, jar.name, jar.version) for jar in locked_jars()
    ]
    assert {dependency.get("transitive") for dependency in dependencies} == {"false"}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("\t\tServer access error: PKIX path building failed", "SSL_CERT_FILE"),
        ("\t\tServer access error: java.net.UnknownHostException: repo", "https_proxy"),
        (
            ":: resolving dependencies :: x#y;w\n\t\t:: org.example#a;1.0: not found",
            "jars: org.example#a;1.0 could not be",
        ),
        ("\t\t:: org.example#a;1.0: not found", "not found. Run `make setup`"),
        ("", "Ivy failed without a message"),
    ],
)
def test_failed_download_names_the_next_step(output: str, expected: str) -> None:
    assert expected in f"jars: {failure_cause(output.splitlines())}"
