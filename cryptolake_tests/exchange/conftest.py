"""Captures that are costly to make, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.captures import HostileFrame, with_hostile_frames


@pytest.fixture(scope="session")
def hostile_capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[HostileFrame]]:
    """The shipped capture with hostile frames in it, and these frames. Not to be written to."""
    directory = tmp_path_factory.mktemp("hostile")
    return directory, with_hostile_frames(DEMO_CAPTURE_DIR, directory)
