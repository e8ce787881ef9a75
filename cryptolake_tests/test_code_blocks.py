"""Every code block of the documents is run by a test or says why not."""

from __future__ import annotations

import pytest

from cryptolake_assets import settings
from cryptolake_tests.support.code_blocks import NEEDS, RUN_LANGUAGES, CodeBlock, code_blocks, runnable_blocks

BLOCKS = list(code_blocks())
CONFIGURATIONS = [block for block in BLOCKS if block.language == "dotenv"]


def test_blocks_of_every_kind_are_found() -> None:
    assert {block.language for block in runnable_blocks()} == RUN_LANGUAGES
    assert {block.needs for block in BLOCKS} == {*NEEDS, None}
    assert len(runnable_blocks()) > 12


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_is_run_or_says_what_it_needs(block: CodeBlock) -> None:
    assert block.needs in NEEDS or block.language in {*RUN_LANGUAGES, "dotenv"}


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=str)
def test_configuration_block_is_valid(block: CodeBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = dict(line.split("=", 1) for line in block.text.splitlines())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    loaded = settings.load_settings()
    assert variables.keys() <= {settings.env_name(name) for name in loaded.model_fields_set}
