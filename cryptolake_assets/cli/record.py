"""`cryptolake record`: record the exchange's frames into capture files for replay."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.status import Status

from cryptolake_assets.cli.app import app
from cryptolake_assets.cli.output import to_stderr
from cryptolake_assets.errors import ExchangeError
from cryptolake_assets.settings import get_settings

if TYPE_CHECKING:
    from cryptolake_assets.producer.recorder import Recorder

PROGRESS_INTERVAL_S = 0.5
MEBIBYTE = 1024 * 1024


@app.command()
def record(
    directory: Annotated[Path, typer.Argument(help="Directory of the capture files; it may have earlier recordings.")],
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Stop after this many seconds. Default: at Ctrl-C.")
    ] = None,
    rotate_min: Annotated[float, typer.Option(min=0.01, help="Minutes per file.")] = 60,
) -> None:
    """Record the trade frames of the configured source and symbols, for `cryptolake replay`."""
    from cryptolake_assets.producer.recorder import Recorder, add_klines

    settings, console = get_settings(), to_stderr()
    directory = directory.expanduser().resolve()
    recorder = Recorder(settings, directory, rotate_min * 60)
    with console.status(f"connecting to {settings.ws_url}") as status:
        asyncio.run(_until_stopped(recorder, seconds, status))
    writer = recorder.writer
    if writer is None or not writer.frames:
        raise ExchangeError(
            f"record: no frames received from {settings.ws_url}. Check that the exchange is reachable "
            "(`cryptolake status` shows the replay exchange), and check CRYPTOLAKE_SYMBOLS."
        )
    console.print(
        f"{writer.frames:,} frames in {writer.files} files, {writer.size_bytes / MEBIBYTE:.1f} MiB: {directory}",
        soft_wrap=True,
    )
    try:
        console.print(f"{add_klines(settings, directory)} official klines of the recorded minutes")
    except ExchangeError as error:
        console.print(f"frames recorded, but no official klines: {error}", soft_wrap=True)
    console.print(f"replay them with: cryptolake replay {directory}", soft_wrap=True)


async def _until_stopped(recorder: Recorder, seconds: float | None, status: Status) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    shown_at = 0.0

    def show_progress() -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= PROGRESS_INTERVAL_S and recorder.writer is not None:
            shown_at = time.monotonic()
            states = ", ".join(sorted({connection.state for connection in recorder.connections}))
            status.update(
                f"{recorder.writer.frames:,} frames, file {recorder.writer.files}, {states}; stop with Ctrl-C"
            )

    await recorder.run(stop, show_progress)
