"""The pools of Dagster's run queue."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg

from cryptolake_assets.defs.instance.pools import ensure_pools, pools
from cryptolake_assets.settings import PROJECT_ROOT


def test_a_pool_blocks_from_its_first_use_on(tmp_path: Path) -> None:
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for _ in range(2):
            ensure_pools(instance)
            for pool in pools():
                assert instance.event_log_storage.get_concurrency_info(pool).slot_count == 1
