"""Dagster's webserver for an instance and the definitions of a file, on a socket, in this process."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import uvicorn
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster_webserver.app import create_app_from_workspace_process_context

from cryptolake_tests.support.waiting import wait_for


@contextmanager
def webserver(instance: dg.DagsterInstance, definitions: Path, attribute: str) -> Iterator[int]:
    """Serve the definitions in `attribute` of the Python file; yield the port."""
    target = LoadableTargetOrigin(python_file=str(definitions), attribute=attribute, executable_path=sys.executable)
    origin = InProcessCodeLocationOrigin(target, location_name="tests")
    with WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as context:
        listener = socket.create_server(("127.0.0.1", 0))
        app = create_app_from_workspace_process_context(context)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started or not thread.is_alive(), poll_s=0.005)
        assert server.started
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(15)
            listener.close()
