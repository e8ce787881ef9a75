"""The pools of Dagster's run queue."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.exc import InternalError

from cryptolake_assets.defs.instance.pools import ensure_pools, pools
from cryptolake_assets.settings import PROJECT_ROOT


def test_pool_admits_one_run_from_its_first_use_on(tmp_path: Path) -> None:
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for _ in range(2):
            ensure_pools(instance)
            for pool in pools():
                assert instance.event_log_storage.get_concurrency_info(pool).slot_count == 1


def test_changed_limit_stays(tmp_path: Path) -> None:
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        ensure_pools(instance)
        storage = instance.event_log_storage
        storage.set_concurrency_slots(pools()[0], 3)
        ensure_pools(instance)
        assert [storage.get_concurrency_info(pool).slot_count for pool in pools()] == [3] + [1] * (len(pools()) - 1)


def test_pool_created_concurrently_by_another_server_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is PostgreSQL's: Dagster updates in the transaction that its failed insert has aborted."""
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        storage = instance.event_log_storage
        create = storage.initialize_concurrency_limit_to_default

        def created_by_another_server(pool: str) -> bool:
            create(pool)
            raise InternalError("UPDATE", {}, Exception("current transaction is aborted"))

        monkeypatch.setattr(storage, "initialize_concurrency_limit_to_default", created_by_another_server)
        ensure_pools(instance)
        assert set(pools()) <= storage.get_concurrency_keys()
        monkeypatch.setattr(storage, "get_concurrency_keys", lambda: set())
        with pytest.raises(InternalError):
            ensure_pools(instance)
