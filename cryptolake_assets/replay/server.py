"""The replay exchange: a server that replays a capture directory over the Binance protocol of its market.

Run as `python -m cryptolake_assets.replay.server`. The settings define its address; it stops on SIGTERM.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from cryptolake_assets.captures.market_of_capture import venue_of_capture
from cryptolake_assets.captures.reader import CapturedFrame, CaptureSummary, read_frames, summarise
from cryptolake_assets.captures.tracked_symbols import extra_streams_in_use, resolve_subscriptions
from cryptolake_assets.errors import CaptureError, CryptolakeError, PartError, PortInUseError
from cryptolake_assets.log import configure_logging
from cryptolake_assets.model.hosts import host_name, is_loopback
from cryptolake_assets.model.replay_faults import FaultBoard, ReplayFault, parse_faults
from cryptolake_assets.model.symbol_selection import parse_selection
from cryptolake_assets.model.symbols import stream_name
from cryptolake_assets.replay.archive_routes import ArchiveRoutes
from cryptolake_assets.replay.batch_routes import BatchRoutes
from cryptolake_assets.replay.control_routes import ControlRoutes, Handler
from cryptolake_assets.replay.funding_routes import FundingRoutes
from cryptolake_assets.replay.replayed_clock import ReplayClock
from cryptolake_assets.replay.rest_routes import RestRoutes
from cryptolake_assets.replay.websocket_client import ClientLimits, ReplayClient, Route, RoutedFrame
from cryptolake_assets.settings import Settings, get_settings

log = structlog.get_logger(__name__)

TICK_S = 0.005
SUBSCRIPTION_WAIT_S = 15.0  # connections open one second apart, so further subscriptions arrive well within this
_MAX_SLEEP_S = 0.5
_PACED_BATCH = 2_000
_UNPACED_BATCH = 256
_MAX_MESSAGE_BYTES = 1 << 16


class ReplayExchange:
    """Server of one capture directory; `start()` and `stop()` it on a running loop, or use `running()`.

    With a speed above 0, the exchange clock runs at that multiple of wall time even without clients, which miss the
    frames sent meanwhile. With speed 0, frames are sent as fast as the subscribed clients read them, and the clock
    pauses without subscribed clients.
    """

    def __init__(
        self,
        directory: Path,
        speed: float = 1.0,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: ClientLimits | None = None,
        faults: Iterable[ReplayFault] = (),
        expected_streams: Collection[str] = (),
    ) -> None:
        """Create the server; it does not listen yet.

        The replay starts when clients have subscribed to all `expected_streams` (such as `btcusdt@aggTrade`), or when
        no new subscription arrived for `SUBSCRIPTION_WAIT_S`.
        """
        self.directory = directory
        self.speed = speed
        self.port = port
        self._host = host
        self._limits = limits or ClientLimits()
        self._faults = FaultBoard()
        self._faults.switch_on(faults)
        self.control = ControlRoutes(directory, self._faults, self.status, self._flush_clients)
        self._expected_streams = frozenset(expected_streams)
        self._clients: set[ReplayClient] = set()
        self._subscribed = asyncio.Event()
        self._frames_passed = 0
        self._frames_sent_before: Counter[str] = Counter()  # by disconnected clients
        self._finished = False
        self._runner: web.AppRunner | None = None
        self._pump: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """REST base URL; the WebSocket URL is the same with `ws://`."""
        return f"http://{self._host}:{self.port}"

    async def start(self) -> None:
        """Read the capture summary and listen. Raises `CaptureError`, `PortInUseError` or `PartError`."""
        self.summary: CaptureSummary = await asyncio.to_thread(summarise, self.directory)
        offset_ns = self.summary.clock_offset_ns
        self.clock = ReplayClock(
            self.summary.first_receive_time_ns + offset_ns, self.summary.last_receive_time_ns + offset_ns, self.speed
        )
        self.venue = venue_of_capture(self.directory)
        self._rest = await asyncio.to_thread(RestRoutes, self.summary, self.clock.now_ms, self._faults, self.venue)
        self.batch = await asyncio.to_thread(BatchRoutes, self.directory, self.clock.now_ms, self._faults)
        market = await asyncio.to_thread(
            FundingRoutes, self.directory, self.clock.now_ms, self.batch, self._rest.add_weight
        )
        app = web.Application(
            middlewares=[self._known_hosts_only, self.control.same_origin_only, self._rest.middleware],
        )
        archive = ArchiveRoutes(self.directory, self.venue.family)
        app.add_routes([*self._rest.routes(), *archive.routes(), *self.batch.routes()])
        app.add_routes([*market.routes(), *self._websocket_routes()])
        app.add_routes(self.control.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(
                    f"replay exchange: port {self.port} of {self._host} is used by another process. Stop that process, "
                    "or set CRYPTOLAKE_EXCHANGE_PORT to a free port."
                ) from error
            raise PartError(
                f"replay exchange: cannot listen on {self._host}:{self.port} ({error}). "
                "Set CRYPTOLAKE_EXCHANGE_PORT to a port that this user may use."
            ) from error
        self.port = int(self._runner.addresses[0][1])
        self._pump = asyncio.create_task(self._run_pump(), name="replay-pump")
        log.info("replay_exchange_started", url=self.url, speed=self.speed, **_summary_fields(self.summary))

    async def stop(self) -> None:
        """Stop sending, close the client connections, and close the port."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))
        if self._runner is not None:
            await self._runner.cleanup()
            self._rest.close()
        log.info("replay_exchange_stopped", frames_passed=self._frames_passed)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ReplayExchange]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    async def wait_failed(self) -> None:
        """Wait forever; raise the error that ended the replay, such as a capture that has become unreadable."""
        if self._pump is not None:
            await asyncio.wait([self._pump])
            await self._pump
        await asyncio.Event().wait()

    def status(self) -> dict[str, Any]:
        """Return the response of `GET /replay/status`; times are epoch milliseconds of the exchange clock."""
        state = "finished" if self._finished else "running" if self.clock.started else "waiting"
        sent = sum((client.frames_sent for client in self._clients), self._frames_sent_before)
        return {
            "directory": str(self.directory),
            "market": self.venue.market.value,
            "speed": self.speed,
            "state": state,
            "clock_ms": self.clock.now_ms(),
            "first_event_time_ms": self.summary.first_event_time_ms,
            "last_event_time_ms": self.summary.last_event_time_ms,
            "frames_total": self.summary.frame_count,
            "frames_passed": self._frames_passed,
            "frames_sent": sent.total(),
            "frames_sent_by_kind": dict(sent),
            "clients": len(self._clients),
            "symbols": list(self.summary.symbols),
            "trade_streams": {symbol: list(streams) for symbol, streams in self.summary.trade_streams.items()},
        }

    @web.middleware
    async def _known_hosts_only(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """On loopback, reject requests for other host names, to block DNS rebinding."""
        if is_loopback(self._host) and not is_loopback(host_name(request.host)):
            raise web.HTTPMisdirectedRequest(
                text=f"replay: {request.host[:200]} is not a loopback host. Set CRYPTOLAKE_EXCHANGE_HOST to allow it."
            )
        return await handler(request)

    # The clients.

    def _websocket_routes(self) -> list[web.RouteDef]:
        routes = []
        routed = (("/market", Route.MARKET), ("/public", Route.PUBLIC)) if self.venue.ws_routed else ()
        for prefix, route in (*routed, ("", Route.LEGACY)):
            combined, raw = (
                self._websocket_handler(route, combined=True),
                self._websocket_handler(route, combined=False),
            )
            routes += [
                web.get(f"{prefix}/stream", combined),
                web.get(f"{prefix}/ws", raw),
                web.get(f"{prefix}/ws/{{streams:.+}}", raw),
            ]
        return routes

    def _websocket_handler(self, route: Route, *, combined: bool) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            named = request.query.get("streams", "") if combined else request.match_info.get("streams", "")
            socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=_MAX_MESSAGE_BYTES)
            await socket.prepare(request)
            if request.transport is None:  # the peer left during the handshake
                return socket
            client = ReplayClient(
                socket,
                request.transport,
                route,
                combined=combined,
                limits=self._limits,
                faults=self._faults,
                clock_ms=self.clock.now_ms,
            )
            client.subscribe(name for name in named.split("/") if name)
            await self._serve(client)
            return socket

        return handle

    async def _serve(self, client: ReplayClient) -> None:
        """Run a client's tasks until it disconnects."""
        self._clients.add(client)
        log.info("replay_client_joined", clients=len(self._clients), subscriptions=list(client.subscriptions))
        if client.subscribed:
            self._subscribed.set()
        tasks = [
            asyncio.create_task(work)
            for work in (client.send_queued(), client.keep_alive(), client.close_at_end_of_life())
        ]
        try:
            await client.receive(self._subscribed)
        finally:
            client.leave()
            self._clients.discard(client)
            self._frames_sent_before += client.frames_sent
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            log.info("replay_client_left", clients=len(self._clients), frames_sent=client.frames_sent.total())

    def _flush_clients(self) -> None:
        for client in self._clients:
            client.flush()

    # The pump: moves frames from the capture to the clients' queues.

    async def _run_pump(self) -> None:
        await self._subscribed.wait()
        await self._wait_for_subscriptions()
        self.clock.start()
        log.info("replay_started", clock_ms=self.clock.now_ms())
        try:
            await (self._pump_paced() if self.speed > 0 else self._pump_unpaced())
        except CaptureError as error:
            log.error("replay_failed", error=str(error), frames_passed=self._frames_passed)
            raise
        self._flush_clients()
        self._finished = True
        log.info("replay_finished", clock_ms=self.clock.now_ms(), frames_passed=self._frames_passed)

    async def _wait_for_subscriptions(self) -> None:
        """Wait for subscriptions to all expected streams; give up `SUBSCRIPTION_WAIT_S` after the last new one."""
        missing, since = self._expected_streams, time.monotonic()
        while missing and time.monotonic() - since < SUBSCRIPTION_WAIT_S:
            remaining = self._expected_streams.difference(*(client.subscriptions for client in self._clients))
            if remaining != missing:
                missing, since = remaining, time.monotonic()
            await asyncio.sleep(TICK_S)
        if missing:
            log.warning("replay_subscriptions_missing", streams=len(missing), first=sorted(missing)[:20])

    def _due_frames(self) -> Iterator[tuple[int, CapturedFrame]]:
        """Yield (due exchange time, frame); never decreasing, even if the receive clock stepped back."""
        due_ns = 0
        for frame in read_frames(self.directory):
            due_ns = max(due_ns, frame.receive_time_ns + self.summary.clock_offset_ns)
            yield due_ns, frame

    async def _pump_paced(self) -> None:
        frames = self._due_frames()
        upcoming = next(frames, None)
        while upcoming is not None:
            target_ns = self.clock.target_ns()
            batch: list[tuple[int, CapturedFrame]] = []
            while upcoming is not None and upcoming[0] <= target_ns and len(batch) < _PACED_BATCH:
                batch.append(upcoming)
                upcoming = next(frames, None)
            self._distribute(batch)
            self.clock.set_next_due(upcoming[0] if upcoming is not None else None)
            if upcoming is not None:
                wait_s = self.clock.wall_seconds_until(upcoming[0])
                # A full batch means the replay lags: yield to the senders without sleeping.
                await asyncio.sleep(0 if len(batch) == _PACED_BATCH else min(max(wait_s, TICK_S), _MAX_SLEEP_S))

    async def _pump_unpaced(self) -> None:
        frames = self._due_frames()
        while True:
            while not any(client.subscribed for client in self._clients):
                self._subscribed.clear()
                await self._subscribed.wait()
            batch = list(islice(frames, _UNPACED_BATCH))
            if not batch:
                return
            self._distribute(batch)
            await asyncio.gather(*(client.drained.wait() for client in self._clients))
            await asyncio.sleep(0)  # awaiting events that are already set does not yield to other tasks
            self.clock.advance_to(batch[-1][0])

    def _distribute(self, batch: list[tuple[int, CapturedFrame]]) -> None:
        first = self._frames_passed
        self._frames_passed += len(batch)
        clients = [client for client in self._clients if client.subscribed]
        if clients and batch:
            routed = [RoutedFrame(frame.raw, number, due_ns) for number, (due_ns, frame) in enumerate(batch, first)]
            for client in clients:
                client.offer(routed)


def _summary_fields(summary: CaptureSummary) -> dict[str, Any]:
    return {
        "directory": str(summary.directory),
        "frames": summary.frame_count,
        "symbols": list(summary.symbols),
        "first_event_time_ms": summary.first_event_time_ms,
        "last_event_time_ms": summary.last_event_time_ms,
    }


def _producer_streams(settings: Settings) -> frozenset[str]:
    """Return the streams that the producer will subscribe to; empty if they depend on the exchange's listing."""
    if parse_selection(settings.symbol_items).needs_listing:
        return frozenset()
    try:
        trades = resolve_subscriptions(settings)
    except CryptolakeError as error:  # the producer reports it too, and other clients can still be served
        log.warning("replay_subscriptions_unknown", error=str(error))
        return frozenset()
    recorded = summarise(settings.replay_dir).stream_names
    tracked = {stream_name(symbol, "") for symbol in trades.symbols}
    extra = {
        name
        for stream_type in extra_streams_in_use(settings)
        for name in recorded
        if stream_type.is_recorded_as(name) and f"{name.partition('@')[0]}@" in tracked
    }
    return frozenset(trades.stream_names) | extra


async def serve(settings: Settings) -> None:
    """Run the exchange until SIGTERM or SIGINT. Raises `CaptureError`, `PortInUseError` or `PartError`."""
    exchange = ReplayExchange(
        settings.replay_dir,
        settings.replay_speed,
        host=settings.exchange_bind_host,
        port=settings.exchange_port,
        faults=parse_faults(settings.replay_faults),
        expected_streams=await asyncio.to_thread(_producer_streams, settings),
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with exchange.running():
        waits = [asyncio.ensure_future(stopping.wait()), asyncio.ensure_future(exchange.wait_failed())]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()


def main() -> int:
    """Run the process: return 0 after SIGTERM, 1 with a message on stderr if it cannot serve."""
    try:
        settings = get_settings()
        configure_logging(settings.log_level)
        asyncio.run(serve(settings))
    except CryptolakeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
