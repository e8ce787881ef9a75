"""Selects the producer's WebSocket and Kafka libraries: the default ones, or the optional extra `fast`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from cryptolake_assets.errors import SettingsError
from cryptolake_assets.producer.publisher import Publisher
from cryptolake_assets.settings import Settings
from cryptolake_assets.settings.producer import ProducerIo

FAST_PACKAGES: Final = ("picows", "confluent_kafka")


def io_in_use(settings: Settings) -> ProducerIo:
    """Return the libraries of the settings, with `AUTO` resolved. Raises `SettingsError` if they are not installed."""
    missing = [name for name in FAST_PACKAGES if find_spec(name) is None]
    if settings.producer_io is ProducerIo.AUTO:
        # An installed extra is meant to be used.
        return ProducerIo.DEFAULT if missing else ProducerIo.FAST
    if settings.producer_io is ProducerIo.FAST and missing:
        raise SettingsError(
            f"producer: CRYPTOLAKE_PRODUCER_IO is `fast`, but {' and '.join(missing)} cannot be imported. Install the "
            "extra (`make fast`, or `pip install 'cryptolake[fast]'`), or set it to `default`."
        )
    return settings.producer_io


def make_publisher(settings: Settings, io: ProducerIo) -> Publisher:
    """Return a publisher on these libraries; `io` is not `AUTO`."""
    if io is ProducerIo.FAST:
        from cryptolake_assets.producer.publisher_confluent import ConfluentPublisher

        return ConfluentPublisher(settings)
    from cryptolake_assets.producer.publisher_aiokafka import AiokafkaPublisher

    return AiokafkaPublisher(settings)
