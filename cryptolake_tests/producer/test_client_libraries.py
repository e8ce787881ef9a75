"""Selection of the producer's libraries, by the setting and the installed packages."""

from __future__ import annotations

import pytest

from cryptolake_assets.errors import SettingsError
from cryptolake_assets.producer import client_libraries as producer_io
from cryptolake_assets.producer.client_libraries import io_in_use, make_publisher
from cryptolake_assets.producer.publisher_aiokafka import AiokafkaPublisher
from cryptolake_assets.producer.publisher_confluent import ConfluentPublisher
from cryptolake_assets.settings import load_settings
from cryptolake_assets.settings.producer import ProducerIo


@pytest.mark.parametrize("io", [ProducerIo.DEFAULT, ProducerIo.FAST])
def test_configured_libraries_are_used(io: ProducerIo) -> None:
    assert io_in_use(load_settings(producer_io=io)) is io


def test_auto_uses_the_installed_extra() -> None:
    assert io_in_use(load_settings(producer_io="auto")) is ProducerIo.FAST


def test_missing_extra_selects_the_default_and_rejects_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(producer_io, "find_spec", lambda name: None if name == "picows" else object())
    assert io_in_use(load_settings(producer_io="auto")) is ProducerIo.DEFAULT
    with pytest.raises(SettingsError, match=r"picows cannot be imported.*make fast"):
        io_in_use(load_settings(producer_io="fast"))


def test_each_library_setting_has_its_publisher() -> None:
    settings = load_settings()
    assert isinstance(make_publisher(settings, ProducerIo.DEFAULT), AiokafkaPublisher)
    assert isinstance(make_publisher(settings, ProducerIo.FAST), ConfluentPublisher)
