"""Loopback names in the Host header."""

from __future__ import annotations

import pytest

from cryptolake_assets.model.hosts import host_name, is_loopback


@pytest.mark.parametrize(
    ("host", "name", "expected"),
    [
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("localhost", "localhost", True),
        ("LOCALHOST:1", "LOCALHOST", True),
        ("[::1]:8000", "::1", True),
        ("[::1]", "::1", True),
        ("127.1.2.3", "127.1.2.3", True),
        ("evil.example:8000", "evil.example", False),
        ("127.0.0.1.evil.example", "127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", "localhost.evil.example", False),
        ("10.0.0.1:8000", "10.0.0.1", False),
        ("", "", False),
    ],
)
def test_only_loopback_names_are_accepted(host: str, name: str, expected: bool) -> None:
    assert host_name(host) == name
    assert is_loopback(host_name(host)) is expected
