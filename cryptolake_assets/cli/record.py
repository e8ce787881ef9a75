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
    """Record the trade frames of the configured source, markets and symbols, for `cryptolake replay`.

    Those of several markets are in the subdirectories `usdm`, `spot` and `coinm`.
    """
    from cryptolake_assets.producer.recorder import Recorder, add_klines

    settings, console = get_settings(), to_stderr()
    directory = directory.expanduser().resolve()
    recorders = [Recorder(view, directory, rotate_min * 60) for view in settings.each_market]
    with console.status(f"connecting to {', '.join(view.ws_url for view in settings.each_market)}") as status:
        asyncio.run(_until_stopped(recorders, seconds, status))
    without_frames = [recorder for recorder in recorders if recorder.writer is None or not recorder.writer.frames]
    for recorder in recorders:
        writer = recorder.writer
        if writer is None or recorder in without_frames:
            continue
        console.print(
            f"{writer.frames:,} frames in {writer.files} files, {writer.size_bytes / MEBIBYTE:.1f} MiB: "
            f"{recorder.directory}",
            soft_wrap=True,
        )
        try:
            klines = add_klines(recorder.settings, recorder.directory)
            console.print(f"{klines} official klines of the recorded minutes")
        except ExchangeError as error:
            console.print(f"frames recorded, but no official klines: {error}", soft_wrap=True)
    if without_frames:
        raise ExchangeError(
            f"record: no frames received from {', '.join(one.settings.ws_url for one in without_frames)}. Check that "
            "the exchange is reachable (`cryptolake status` shows the replay exchange), and check CRYPTOLAKE_SYMBOLS."
        )
    console.print(f"replay them with: cryptolake replay {directory}", soft_wrap=True)


async def _until_stopped(recorders: list[Recorder], seconds: float | None, status: Status) -> None:
    from cryptolake_assets.producer.asyncio_tasks import cancel_and_wait

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)
    shown_at = 0.0

    def show_progress() -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= PROGRESS_INTERVAL_S:
            shown_at = time.monotonic()
            writers = [recorder.writer for recorder in recorders if recorder.writer is not None]
            states = {connection.state for recorder in recorders for connection in recorder.connections}
            frames, files = sum(writer.frames for writer in writers), sum(writer.files for writer in writers)
            status.update(f"{frames:,} frames, {files} files, {', '.join(sorted(states))}; stop with Ctrl-C")

    recording = [asyncio.create_task(recorder.run(stop, show_progress)) for recorder in recorders]
    try:
        await asyncio.gather(*recording)
    finally:
        await cancel_and_wait(recording)
