"""Brokers with access control: every client uses the settings; a rejection is reported once, with the next step."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cryptolake_assets import cli
from cryptolake_assets.api.health_routes import LakeCollector
from cryptolake_assets.binance.trade_frames import AcceptedFrame, parse_frame
from cryptolake_assets.bronze.offsets import bronze_lag, bronze_lags
from cryptolake_assets.bronze.stream import run_available_now
from cryptolake_assets.errors import BrokerAccessError, BrokerError
from cryptolake_assets.kafka import oauth
from cryptolake_assets.kafka import topics as kafka
from cryptolake_assets.lake.query import run_sql
from cryptolake_assets.model.markets import USD_M
from cryptolake_assets.platform.parts import KAFKA, SPARK
from cryptolake_assets.platform.status import problems, status
from cryptolake_assets.producer.client_libraries import make_publisher
from cryptolake_assets.producer.delivery import ReliableDelivery
from cryptolake_assets.producer.publisher import Message
from cryptolake_assets.settings import Settings, get_settings, load_settings
from cryptolake_assets.settings.producer import ProducerIo
from cryptolake_tests.support.captures import trade_frame
from cryptolake_tests.support.certificates import Authority
from cryptolake_tests.support.platforms import StartPlatform, settings_for
from cryptolake_tests.support.secure_broker import GUEST, PASSWORD, SecureBroker, secure_broker
from cryptolake_tests.support.servers import free_port

BOTH = pytest.mark.parametrize("io", [ProducerIo.DEFAULT, ProducerIo.FAST])
WRONG = {"kafka_sasl_password": "another-word-77"}
TRADE_TIME_MS = 1_735_689_600_001
ONE_ATTEMPT_S = 20.0
"""Longer than one rejected attempt, shorter than several."""


@pytest.fixture(scope="module")
def broker(start_platform: StartPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    with secure_broker(settings_for(tmp_path_factory.mktemp("secure"))) as running:
        yield running


@pytest.fixture
def own(broker: SecureBroker, tmp_path: Path) -> Settings:
    """A user's settings for these brokers, with separate topics per test."""
    return settings_for(tmp_path, kafka_topic_futures=f"trades-{uuid.uuid4().hex[:8]}", **broker.access())


@pytest.fixture(autouse=True)
def _no_cached_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "_token_cache", {})


def with_fields(settings: Settings, **fields: Any) -> Settings:
    """Return the settings with changed fields, validated like a user's."""
    unchanged = {name: getattr(settings, name) for name in Settings.model_fields if not name.startswith("kafka_s")}
    return load_settings(**{**unchanged, **fields})


def event(trade_id: int) -> bytes:
    frame = trade_frame("BTCUSDT", trade_id, TRADE_TIME_MS, "0.1", "1", is_buyer_maker=True)
    parsed = parse_frame(frame.encode(), ingest_time_us=TRADE_TIME_MS * 1000, exchange=USD_M.exchange)
    assert isinstance(parsed, AcceptedFrame)
    return parsed.event.encode()


async def deliver(settings: Settings, io: ProducerIo, values: Sequence[bytes]) -> dict[int, int]:
    """Deliver values as the producer does; return the next offset of each partition."""
    publisher = make_publisher(settings, io)
    delivery = ReliableDelivery(publisher)
    try:
        async with asyncio.timeout(60):
            await delivery.start()
            for number, value in enumerate(values):
                partition = number % len(delivery.next_offsets[settings.topic_trades])
                await delivery.put(Message(settings.kafka_topic_futures, value, b"BTCUSDT", partition))
            await delivery.drained()
    finally:
        await publisher.stop()
    return delivery.next_offsets[settings.topic_trades]


ACCESS_CASES = [
    pytest.param("SASL_SSL", {}, id="scram-512"),
    pytest.param("SASL_SSL", {"kafka_sasl_mechanism": "SCRAM-SHA-256"}, id="scram-256"),
    pytest.param(
        "SASL_SSL",
        {"kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "plain", "kafka_sasl_password": "plain-secret"},
        id="plain",
    ),
    pytest.param("SASL_PLAINTEXT", {}, id="scram-without-tls"),
    pytest.param("MUTUAL", {}, id="certificate"),
]
TOKENS = pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT"])


@pytest.mark.parametrize(("listener", "changes"), ACCESS_CASES)
@BOTH
async def test_both_publishers_deliver(
    own: Settings, broker: SecureBroker, listener: str, changes: dict[str, Any], io: ProducerIo
) -> None:
    settings = with_fields(own, **broker.access(listener, **changes))
    values = [b"%d" % number for number in range(1_000)]
    offsets = await deliver(settings, io, values)
    assert offsets == await kafka.end_offsets_async(settings, settings.kafka_topic_futures)
    found = await kafka.peek_async(settings, settings.kafka_topic_futures, 2_000, from_end=False)
    assert sorted(int(record.value or b"") for record in found) == list(range(1_000))


@TOKENS
@BOTH
async def test_both_publishers_deliver_with_a_token(
    own: Settings, broker: SecureBroker, protocol: str, io: ProducerIo
) -> None:
    settings = with_fields(own, **broker.by_token(listener=protocol))
    issued_before = broker.tokens.issued
    assert await deliver(settings, io, [b"%d" % number for number in range(100)])
    assert broker.tokens.issued > issued_before
    found = await kafka.peek_async(settings, settings.kafka_topic_futures, 200, from_end=False)
    assert sorted(int(record.value or b"") for record in found) == list(range(100))


def test_topics_are_created_by_the_settings_and_differences_are_reported(own: Settings, broker: SecureBroker) -> None:
    mine = own.model_copy(update={"kafka_partitions": 3})
    assert set(kafka.ensure_topics(mine).values()) == {True}
    assert len(kafka.end_offsets(mine, mine.kafka_topic_futures)) == 3
    assert kafka.topic_differences(mine) == []
    more = mine.model_copy(update={"kafka_partitions": 6, "kafka_replication": 3})
    assert set(kafka.ensure_topics(more).values()) == {False}
    partitions, replicas = kafka.topic_differences(more)[:2]
    topic = f"topic {mine.kafka_topic_futures}:"
    assert partitions.startswith(f"{topic} it has 3 partitions, but CRYPTOLAKE_KAFKA_PARTITIONS is 6.")
    assert replicas.startswith(f"{topic} it has 1 replicas, but CRYPTOLAKE_KAFKA_REPLICATION is 3.")
    result = CliRunner().invoke(cli.app, ["topics"], env=environment(more))
    assert result.exit_code == 0
    assert f"{mine.topic_rejected}: exists" in result.output
    assert partitions in result.output
    assert replicas in result.output


def environment(settings: Settings) -> dict[str, str]:
    get_settings.cache_clear()
    return settings.environment()


@BOTH
async def test_wrong_password_fails_once_with_the_next_step(
    own: Settings, broker: SecureBroker, io: ProducerIo
) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerAccessError, match=r"SaslAuthenticationFailed.*CRYPTOLAKE_KAFKA_SASL_PASSWORD") as error:
        await deliver(with_fields(own, **broker.access(**WRONG)), io, [b"1"])
    assert time.monotonic() - began < ONE_ATTEMPT_S
    assert "another-word-77" not in str(error.value)


@pytest.mark.nightly
@BOTH
async def test_restart_of_the_publisher_detects_a_changed_password(
    own: Settings, broker: SecureBroker, io: ProducerIo
) -> None:
    """A restarted publisher authenticates again; the library itself would retry forever."""
    publisher = make_publisher(own, io)
    delivery = ReliableDelivery(publisher)
    await delivery.start()
    try:
        publisher._settings = with_fields(own, **broker.access(**WRONG))  # type: ignore[attr-defined]
        with pytest.raises(BrokerAccessError, match="CRYPTOLAKE_KAFKA_SASL_PASSWORD"):
            await publisher.restart()
    finally:
        await publisher.stop()


def test_producer_process_ends_with_the_access_error(own: Settings, broker: SecureBroker) -> None:
    settings = with_fields(own, **broker.access(**WRONG))
    ended = subprocess.run(
        [sys.executable, "-m", "cryptolake_assets.producer.process"],
        env=os.environ | settings.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    assert "CRYPTOLAKE_KAFKA_SASL_PASSWORD" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "another-word-77" not in ended.stdout + ended.stderr


@BOTH
async def test_denied_token_fails_once_with_the_next_step(own: Settings, broker: SecureBroker, io: ProducerIo) -> None:
    began = time.monotonic()
    message = r"SaslAuthenticationFailed.*/token returned status 401: invalid_client.*CRYPTOLAKE_KAFKA_OAUTH_TOKEN_URL"
    with pytest.raises(BrokerAccessError, match=message) as raised:
        await deliver(with_fields(own, **broker.by_token(**WRONG)), io, [b"1"])
    assert time.monotonic() - began < ONE_ATTEMPT_S
    assert "another-word-77" not in str(raised.value)


@BOTH
async def test_token_that_the_brokers_reject_is_an_access_error(
    own: Settings, broker: SecureBroker, io: ProducerIo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker.tokens, "audience", "another service")
    with pytest.raises(BrokerAccessError, match=r"rejected the token.*invalid_token.*audience"):
        await deliver(with_fields(own, **broker.by_token()), io, [b"1"])


def test_unreachable_token_server_is_not_an_access_error(
    own: Settings, broker: SecureBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker.tokens, "status", 503)
    fields = broker.by_token()
    one_is_down = f"127.0.0.1:{free_port()},{fields['kafka_bootstrap_servers']}"
    for servers in (fields["kafka_bootstrap_servers"], one_is_down):
        with pytest.raises(BrokerError, match=r"/token returned status 503.*CRYPTOLAKE_KAFKA_OAUTH_TOKEN_URL") as error:
            kafka.ensure_topics(with_fields(own, **(fields | {"kafka_bootstrap_servers": servers})))
        assert not isinstance(error.value, BrokerAccessError)
    unreachable = f"http://127.0.0.1:{free_port()}/token"
    with pytest.raises(BrokerError, match=r"/token is unreachable") as error:
        kafka.ensure_topics(with_fields(own, **broker.by_token(kafka_oauth_token_url=unreachable)))
    assert not isinstance(error.value, BrokerAccessError)


REJECTED_CASES = [
    pytest.param(
        "SASL_SSL", {"kafka_sasl_username": "nobody"}, r"SaslAuthenticationFailed.*SASL_USERNAME", id="unknown-user"
    ),
    pytest.param("SASL_SSL", {"kafka_sasl_username": GUEST}, r"Authorization.*the user's? .*permission", id="no-right"),
    pytest.param(
        "SASL_SSL", {"kafka_ssl_ca_file": None}, r"CERTIFICATE_VERIFY_FAILED.*KAFKA_SSL_CA_FILE", id="unknown-ca"
    ),
    pytest.param(
        "MUTUAL",
        dict.fromkeys(("kafka_ssl_cert_file", "kafka_ssl_key_file", "kafka_ssl_key_password")),
        r"SSL.*KAFKA_SSL_CERT_FILE",
        id="no-certificate",
    ),
]


@pytest.mark.parametrize(("listener", "changes", "message"), REJECTED_CASES)
def test_access_error_names_its_cause_and_the_setting(
    own: Settings, broker: SecureBroker, listener: str, changes: dict[str, Any], message: str
) -> None:
    fields = {name: value for name, value in broker.access(listener, **changes).items() if value is not None}
    with pytest.raises(BrokerAccessError, match=message):
        kafka.ensure_topics(with_fields(own, **fields))


def test_certificate_for_another_host_is_rejected(own: Settings, broker: SecureBroker) -> None:
    servers = f"localhost:{broker.ports['SASL_SSL']}"
    with pytest.raises(BrokerAccessError, match=r"localhost.*KAFKA_SSL_CA_FILE.*KAFKA_BOOTSTRAP_SERVERS to host names"):
        kafka.ensure_topics(with_fields(own, **broker.access(kafka_bootstrap_servers=servers)))


def test_certificate_of_another_authority_is_rejected(own: Settings, broker: SecureBroker, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "others", "another CA").sign("lake-client")
    fields = broker.access("MUTUAL", kafka_ssl_cert_file=certificate, kafka_ssl_key_file=key)
    del fields["kafka_ssl_key_password"]
    with pytest.raises(BrokerAccessError, match="KAFKA_SSL_CERT_FILE"):
        kafka.ensure_topics(with_fields(own, **fields))


@pytest.mark.parametrize(
    ("protocol", "listener"), [("PLAINTEXT", "SASL_SSL"), ("PLAINTEXT", "SASL_PLAINTEXT"), ("SSL", "SASL_PLAINTEXT")]
)
def test_protocol_mismatch_suggests_the_protocol_setting(
    own: Settings, broker: SecureBroker, protocol: str, listener: str
) -> None:
    servers = f"127.0.0.1:{broker.ports[listener]}"
    with pytest.raises(BrokerError, match="CRYPTOLAKE_KAFKA_SECURITY_PROTOCOL"):
        kafka.ensure_topics(with_fields(own, kafka_bootstrap_servers=servers, kafka_security_protocol=protocol))


# Spark.


@pytest.fixture(scope="module")
def lake(
    start_platform: StartPlatform, broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """A home with Spark and the tables, and its topics on the secure brokers."""
    settings = settings_for(tmp_path_factory.mktemp("lake"), spark_memory_mb=1024, **broker.access())
    with start_platform(settings, [SPARK]):
        kafka.ensure_topics(settings)
        yield settings


@pytest.mark.nightly
def test_spark_reads_a_secure_topic_and_the_lag_is_reported(lake: Settings, broker: SecureBroker) -> None:
    before = bronze_lag(lake)
    asyncio.run(deliver(lake, ProducerIo.DEFAULT, [event(number) for number in range(10)]))
    lags = bronze_lags(lake)
    assert sum(lag.records for lag in lags) == bronze_lag(lake) == before + 10
    assert [lag.partition for lag in lags] == [0, 1, 2, 3]
    assert all(lag.records >= 2 for lag in lags)
    assert run_available_now(lake) == before + 10
    assert [lag.records for lag in bronze_lags(lake)] == [0, 0, 0, 0]

    # The same lake with other credentials: a client certificate, and a token.
    for first_id, fields in (10, broker.access("MUTUAL")), (15, broker.by_token()):
        another = with_fields(lake, **fields)
        asyncio.run(deliver(another, ProducerIo.FAST, [event(number) for number in range(first_id, first_id + 5)]))
        assert run_available_now(another) == 5
    found = run_sql(lake, "SELECT trade_id FROM cryptolake.bronze.futures_trades ORDER BY trade_id").to_pylist()
    assert [row["trade_id"] for row in found] == list(range(20))


@pytest.mark.nightly
def test_commands_and_metrics_report_the_lag_per_partition(lake: Settings) -> None:
    run_available_now(lake)
    asyncio.run(deliver(lake, ProducerIo.DEFAULT, [event(number) for number in range(100, 103)]))
    result = CliRunner().invoke(cli.app, ["lag", "--format", "csv"], env=environment(lake))
    assert result.exit_code == 0, result.output
    head, *lines = result.output.splitlines()
    assert head == "topic,partition,end_offset,bronze_offset,records"
    assert [line.split(",")[1::3] for line in lines] == [["0", "1"], ["1", "1"], ["2", "1"], ["3", "0"]]

    class SettingsHolder:
        settings = lake

    records, partitions = LakeCollector(SettingsHolder())._stream_lag()  # type: ignore[arg-type]
    assert [sample.value for sample in records.samples] == [3]
    assert {sample.labels["partition"]: sample.value for sample in partitions.samples} == {
        "0": 1,
        "1": 1,
        "2": 1,
        "3": 0,
    }
    run_available_now(lake)


@pytest.mark.nightly
def test_status_and_health_report_rejected_credentials(lake: Settings, broker: SecureBroker) -> None:
    def detail(settings: Settings) -> str:
        return next(row.detail for row in status(settings) if row.name == KAFKA)

    assert detail(lake) == f"{lake.bootstrap_servers} reachable"
    wrong = with_fields(lake, **broker.access(**WRONG))
    assert "SaslAuthenticationFailed" in detail(wrong)
    assert any("SaslAuthenticationFailed" in line and "security settings" in line for line in problems(wrong))
    assert not any(line.startswith(f"{KAFKA}:") for line in problems(lake))


@pytest.mark.nightly
def test_spark_with_a_wrong_password_fails_with_the_next_step(lake: Settings, broker: SecureBroker) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerAccessError, match=r"SaslAuthentication.*CRYPTOLAKE_KAFKA_SASL_PASSWORD") as error:
        run_available_now(with_fields(lake, **broker.access(**WRONG)))
    assert time.monotonic() - began < 60
    assert WRONG["kafka_sasl_password"] not in str(error.value)


@pytest.mark.nightly
def test_spark_without_a_token_fails_with_the_next_step(lake: Settings, broker: SecureBroker) -> None:
    with pytest.raises(BrokerAccessError, match=r"CRYPTOLAKE_KAFKA_OAUTH_TOKEN_URL") as error:
        run_available_now(with_fields(lake, **broker.by_token(**WRONG)))
    assert WRONG["kafka_sasl_password"] not in str(error.value)
    unreachable = f"http://127.0.0.1:{free_port()}/token"
    with pytest.raises(BrokerError, match=r"read with Spark: .*/token is unreachable") as away:
        run_available_now(with_fields(lake, **broker.by_token(kafka_oauth_token_url=unreachable)))
    assert not isinstance(away.value, BrokerAccessError)


@pytest.mark.nightly
def test_spark_logs_contain_no_secret(lake: Settings, broker: SecureBroker) -> None:
    for fields in (broker.access("SASL_SSL"), broker.access("MUTUAL"), broker.by_token()):
        run_available_now(with_fields(lake, **fields))
    logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in lake.log_dir.iterdir())
    assert "SparkConnectServer" in logs
    assert "PRIVATE KEY" not in logs
    assert PASSWORD[-5:] not in logs
    assert "secret-88" in broker.tokens.client_secret  # its other characters are escaped
    assert "secret-88" not in logs
    assert WRONG["kafka_sasl_password"] not in logs
