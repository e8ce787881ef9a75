"""The pools of Dagster's run queue."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.exc import InternalError

from cryptolake_assets.defs.instance.pools import ensure_pools, pools
from cryptolake_assets.settings import PROJECT_ROOT


def test_a_pool_blocks_from_its_first_use_on(tmp_path: Path) -> None:
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for _ in range(2):
            ensure_pools(instance)
            for pool in pools():
                assert instance.event_log_storage.get_concurrency_info(pool).slot_count == 1


def test_a_limit_that_was_set_stays(tmp_path: Path) -> None:
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        ensure_pools(instance)
        storage = instance.event_log_storage
        storage.set_concurrency_slots(pools()[0], 3)
        ensure_pools(instance)
        assert [storage.get_concurrency_info(pool).slot_count for pool in pools()] == [3] + [1] * (len(pools()) - 1)


def test_a_pool_that_another_server_makes_meanwhile_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PostgreSQL ends it: Dagster updates in the transaction that its failed insert has aborted."""
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        storage = instance.event_log_storage
        make = storage.initialize_concurrency_limit_to_default

        def made_by_another(pool: str) -> bool:
            make(pool)
            raise InternalError("UPDATE", {}, Exception("current transaction is aborted"))

        monkeypatch.setattr(storage, "initialize_concurrency_limit_to_default", made_by_another)
        ensure_pools(instance)
        assert set(pools()) <= storage.get_concurrency_keys()
        monkeypatch.setattr(storage, "get_concurrency_keys", lambda: set())
        with pytest.raises(InternalError):
            ensure_pools(instance)
