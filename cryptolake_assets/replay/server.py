"""The replay exchange: a server that replays a capture directory over the Binance protocols of its markets.

All markets run on one clock. REST paths differ by market; the WebSocket paths of a market are below `/usdm`, `/coinm`
or `/spot`, and those of the default market also at the root, as on the exchange's own hosts.

Run as `python -m cryptolake_assets.replay.server`. The settings define its address; it stops on SIGTERM.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from cryptolake_assets.binance.raw_streams import without_speed
from cryptolake_assets.captures.market_of_capture import capture_directory
from cryptolake_assets.captures.reader import summarise
from cryptolake_assets.captures.tracked_symbols import extra_streams_of_market, resolve_subscriptions
from cryptolake_assets.errors import CaptureError, CryptolakeError, PartError, PortInUseError
from cryptolake_assets.log import configure_logging
from cryptolake_assets.model.hosts import host_name, is_loopback
from cryptolake_assets.model.markets import VENUES, Market
from cryptolake_assets.model.replay_faults import FaultBoard, ReplayFault, parse_faults
from cryptolake_assets.model.symbol_selection import parse_selection
from cryptolake_assets.model.symbols import stream_name
from cryptolake_assets.replay.archive_routes import ArchiveRoutes
from cryptolake_assets.replay.batch_routes import BatchRoutes
from cryptolake_assets.replay.control_routes import ControlRoutes, Handler
from cryptolake_assets.replay.funding_routes import FundingRoutes
from cryptolake_assets.replay.replayed_capture import DueFrame, ReplayedCapture
from cryptolake_assets.replay.rest_routes import RestRoutes, exchange_middleware
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
        expected_streams: Mapping[Market, Collection[str]] | None = None,
        default_market: Market | None = None,
    ) -> None:
        """Create the server; it does not listen yet.

        The replay starts when clients have subscribed to all `expected_streams` (such as `btcusdt@aggTrade`) of each
        market, or when no new subscription arrived for `SUBSCRIPTION_WAIT_S`. Without a captured `default_market`, it
        is the first one of the capture.
        """
        self.directory = directory
        self.speed = speed
        self.port = port
        self._host = host
        self._limits = limits or ClientLimits()
        self._faults = FaultBoard()
        self._faults.switch_on(faults)
        self.control = ControlRoutes(directory, self._faults, self.status, self._flush_clients)
        self._expected_streams = frozenset(
            (market, without_speed(stream))
            for market, streams in (expected_streams or {}).items()
            for stream in streams
        )
        self._default_market = default_market
        self._clients: set[ReplayClient] = set()
        self._subscribed = asyncio.Event()
        self._frames_passed = 0
        self._frames_sent_before: dict[Market, Counter[str]] = {}  # by disconnected clients
        self._finished = False
        self._runner: web.AppRunner | None = None
        self._pump: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """REST base URL; the WebSocket URL is the same with `ws://`."""
        return f"http://{self._host}:{self.port}"

    async def start(self) -> None:
        """Read the capture summaries and listen. Raises `CaptureError`, `PortInUseError` or `PartError`."""
        app = await asyncio.to_thread(self._make_app)
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
        log.info("replay_exchange_started", url=self.url, speed=self.speed, **self.capture.describe())

    def _make_app(self) -> web.Application:
        """Read the capture's files and summaries; return the application with the routes of all markets."""
        self.capture = ReplayedCapture(self.directory, self.speed)
        self.clock, directories = self.capture.clock, self.capture.directories
        self._rest = {
            market: RestRoutes(
                summary, self.clock.now_ms, VENUES[market], partial(self._faults.clock_offset_ms, market)
            )
            for market, summary in self.capture.summaries.items()
        }
        first = next(iter(directories))
        self.batch = BatchRoutes(self.directory, self.clock.now_ms, self._faults)
        futures = self._rest.get(Market.USD_M, self._rest[first])
        funding = FundingRoutes(self.directory, self.clock.now_ms, self.batch, futures.add_weight)
        app = web.Application(
            middlewares=[
                self._known_hosts_only,
                self.control.same_origin_only,
                exchange_middleware(list(self._rest.values()), self._faults),
            ],
        )
        for rest in self._rest.values():
            app.add_routes(rest.routes())
        app.add_routes([*ArchiveRoutes(self.directory, directories).routes(), *self.batch.routes()])
        app.add_routes([*funding.routes(), *self.control.routes()])
        root = next((market for market in directories if market is self._default_market), first)
        app.add_routes(self._websocket_routes("", root))
        for market in directories:
            app.add_routes(self._websocket_routes(f"/{market}", market))
        return app

    async def stop(self) -> None:
        """Stop sending, close the client connections, and close the port."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))
        if self._runner is not None:
            await self._runner.cleanup()
            for rest in self._rest.values():
                rest.close()
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
        sent_by_market = {market: self._sent(market) for market in self.capture.directories}
        sent = sum(sent_by_market.values(), Counter[str]())
        return {
            **self.capture.describe(),
            "speed": self.speed,
            "state": state,
            "clock_ms": self.clock.now_ms(),
            "frames_passed": self._frames_passed,
            "frames_sent": sent.total(),
            "frames_sent_by_kind": dict(sent),
            "clients": len(self._clients),
            "markets": {
                market: {**self.capture.describe_market(market), "frames_sent_by_kind": dict(of_market)}
                for market, of_market in sent_by_market.items()
            },
        }

    def _sent(self, market: Market) -> Counter[str]:
        """Return the number of frames sent to the clients of a market, by stream kind."""
        present = (client.frames_sent for client in self._clients if client.market is market)
        return sum(present, self._frames_sent_before.get(market, Counter[str]()))

    @web.middleware
    async def _known_hosts_only(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """On loopback, reject requests for other host names, to block DNS rebinding."""
        if is_loopback(self._host) and not is_loopback(host_name(request.host)):
            raise web.HTTPMisdirectedRequest(
                text=f"replay: {request.host[:200]} is not a loopback host. Set CRYPTOLAKE_EXCHANGE_HOST to allow it."
            )
        return await handler(request)

    # The clients.

    def _websocket_routes(self, prefix: str, market: Market) -> list[web.RouteDef]:
        """Return the routes of a market below `prefix`."""
        routes = []
        routed = (("/market", Route.MARKET), ("/public", Route.PUBLIC)) if VENUES[market].ws_routed else ()
        for below, route in (*routed, ("", Route.LEGACY)):
            combined, raw = (
                self._websocket_handler(market, route, combined=True),
                self._websocket_handler(market, route, combined=False),
            )
            routes += [
                web.get(f"{prefix}{below}/stream", combined),
                web.get(f"{prefix}{below}/ws", raw),
                web.get(f"{prefix}{below}/ws/{{streams:.+}}", raw),
            ]
        return routes

    def _websocket_handler(self, market: Market, route: Route, *, combined: bool) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            named = request.query.get("streams", "") if combined else request.match_info.get("streams", "")
            socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=_MAX_MESSAGE_BYTES)
            await socket.prepare(request)
            if request.transport is None:  # the peer left during the handshake
                return socket
            client = ReplayClient(
                socket,
                request.transport,
                market,
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
        log.info(
            "replay_client_joined",
            clients=len(self._clients),
            market=client.market,
            subscriptions=list(client.subscriptions),
        )
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
            self._frames_sent_before.setdefault(client.market, Counter()).update(client.frames_sent)
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
            remaining = self._expected_streams.difference(
                (client.market, without_speed(stream)) for client in self._clients for stream in client.subscriptions
            )
            if remaining != missing:
                missing, since = remaining, time.monotonic()
            await asyncio.sleep(TICK_S)
        if missing:
            log.warning("replay_subscriptions_missing", streams=len(missing), first=sorted(missing)[:20])

    async def _pump_paced(self) -> None:
        frames = self.capture.frames()
        upcoming = next(frames, None)
        while upcoming is not None:
            target_ns = self.clock.target_ns()
            batch: list[DueFrame] = []
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
        frames = self.capture.frames()
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

    def _distribute(self, batch: list[DueFrame]) -> None:
        first = self._frames_passed
        self._frames_passed += len(batch)
        clients = [client for client in self._clients if client.subscribed]
        routed: dict[Market, list[RoutedFrame]] = {client.market: [] for client in clients}
        for number, (due_ns, market, frame) in enumerate(batch, first):
            if market in routed:
                routed[market].append(RoutedFrame(frame.raw, number, due_ns))
        for client in clients:
            client.offer(routed[client.market])


def _producer_streams(settings: Settings) -> frozenset[str]:
    """Return the streams of the settings' market that the producer will subscribe to.

    Empty if they depend on the exchange's listing.
    """
    if parse_selection(settings.symbol_items).needs_listing:
        return frozenset()
    try:
        trades = resolve_subscriptions(settings)
    except CryptolakeError as error:  # the producer reports it too, and other clients can still be served
        log.warning("replay_subscriptions_unknown", error=str(error))
        return frozenset()
    recorded = summarise(capture_directory(settings)).stream_names
    tracked = {stream_name(symbol, "") for symbol in trades.symbols}
    extra = {
        name
        for stream_type in extra_streams_of_market(settings)
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
        expected_streams=await asyncio.to_thread(
            lambda: {view.market: _producer_streams(view) for view in settings.each_market}
        ),
        default_market=settings.market,
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
