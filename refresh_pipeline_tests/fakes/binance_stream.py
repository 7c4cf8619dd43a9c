"""Binance with kline streams beside its REST, on loopback: a clock that may run fast, and faults of streams.

    with StreamingBinance(clock, symbols=["BTCUSDT"]) as venue:
        ...  # put venue.base_url into a market's YAML: its streams are on the same host
        venue.faults.missing.add("BTCUSDT")

The faults are those that streams of venues have had: late, missing, twice, out of order, forming, cut, stall, refused,
shutdown, wrong clock.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from aiohttp import web

from refresh_pipeline_tests.fakes.binance import INTERVALS_MS, FakeBinance

MINUTE = timedelta(minutes=1)


@dataclass
class StreamFaults:
    """What goes wrong: sets hold symbols, and apply until they are taken out again."""

    # Seconds that the close of a symbol comes late, by the machine's clock.
    late: dict[str, float] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    # The close of the minute before comes again after the newest one.
    out_of_order: set[str] = field(default_factory=set)
    # A forming candle with other numbers comes after the close.
    forming: set[str] = field(default_factory=set)
    # Connections go on without a message.
    stalled: bool = False
    # New connections are refused with HTTP 503.
    refused: bool = False
    # Seconds that the venue's clock is ahead in its messages.
    clock_ahead: float = 0.0


class StreamingBinance(FakeBinance):
    """The venue. `clock` tells its time and its speed; `connections` counts those opened, `refusals` those refused."""

    def __init__(
        self, clock: Callable[[], datetime], speed: float = 1.0, symbols: Iterable[str] = ("BTCUSDT",), port: int = 0
    ) -> None:
        """A venue whose minutes last 60 / speed seconds."""
        super().__init__(symbols=symbols, weight_per_minute=60_000, port=port)
        self._clock, self._speed = clock, speed
        self.faults = StreamFaults()
        self.connections = self.refusals = 0
        self._sockets: dict[web.WebSocketResponse, dict[str, tuple[str, str]]] = {}
        self._pushing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._klines_made: dict[tuple[str, str], list[Any]] = {}

    def cut(self) -> None:
        """Drop every connection, without a closing handshake."""
        self._in_loop(self._drop)

    def end_day(self) -> None:
        """Close every connection as the venue does after 24 hours."""
        self._in_loop(lambda: [asyncio.ensure_future(socket.close()) for socket in list(self._sockets)])

    def announce_shutdown(self) -> None:
        """Send every connection the event serverShutdown."""
        message = json.dumps({"e": "serverShutdown", "E": self._now_ms()})
        self._in_loop(lambda: [asyncio.ensure_future(socket.send_str(message)) for socket in self._sockets])

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        return await (self.handle_stream(request) if request.path == "/stream" else super()._handle(request))

    async def handle_stream(self, request: web.Request) -> web.StreamResponse:
        """A WebSocket on /stream."""
        if self.faults.refused:
            self.refusals += 1
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        self._sockets[socket] = {}
        self._pushing = self._pushing or asyncio.create_task(self._push())
        async for message in socket:
            order = json.loads(message.data)
            for stream in order["params"]:
                symbol, _, interval = stream.partition("@kline_")
                self._sockets[socket][stream] = (symbol.upper(), interval)
            await socket.send_str(json.dumps({"result": None, "id": order["id"]}))
        self._sockets.pop(socket, None)
        return socket

    def _now_ms(self) -> int:
        return int(self._clock().timestamp() * 1000)

    def _in_loop(self, call: Callable[[], Any]) -> None:
        self._loop.call_soon_threadsafe(call)

    def _drop(self) -> None:
        for socket in list(self._sockets):
            if socket._req is not None and socket._req.transport is not None:
                socket._req.transport.abort()

    async def _push(self) -> None:
        boundary = self._clock().replace(second=0, microsecond=0) + MINUTE
        while True:
            self._prepare(int(boundary.timestamp() * 1000))
            await asyncio.sleep(max((boundary - self._clock()).total_seconds() / self._speed, 0))
            for socket, streams in list(self._sockets.items()):
                task = asyncio.create_task(self._push_closes(socket, streams, boundary))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            boundary += MINUTE

    def _prepare(self, closes: int) -> None:
        """Make the klines that close then before they do: a venue is not late for that."""
        self._klines_made = {
            (symbol, interval): self._rows(symbol, interval, np.array([closes - INTERVALS_MS[interval]]))
            for streams in self._sockets.values()
            for symbol, interval in streams.values()
            if closes % INTERVALS_MS[interval] == 0
        }

    async def _push_closes(
        self, socket: web.WebSocketResponse, streams: dict[str, tuple[str, str]], boundary: datetime
    ) -> None:
        faults, waiting = self.faults, []
        for stream, (symbol, interval) in streams.items():
            length = INTERVALS_MS[interval]
            closes = int(boundary.timestamp() * 1000)
            if faults.stalled or closes % length or symbol in faults.missing:
                continue
            close = self._message(stream, symbol, interval, closes - length)
            sent = [close, close] if symbol in faults.twice else [close]
            if symbol in faults.forming:
                sent = [self._message(stream, symbol, interval, closes - length, is_closed=False), *sent]
            if symbol in faults.out_of_order:
                sent.append(self._message(stream, symbol, interval, closes - 2 * length))
            waiting.append((faults.late.get(symbol, 0.0), sent))
        begun = 0.0
        for late, sent in sorted(waiting):
            await asyncio.sleep(late - begun)
            begun = late
            for message in sent:
                if not socket.closed:
                    await socket.send_str(message)

    def _message(self, stream: str, symbol: str, interval: str, opens: int, *, is_closed: bool = True) -> str:
        [row] = self._klines_made.get((symbol, interval), []) or [[None]]
        if row[0] != opens:
            [row] = self._rows(symbol, interval, np.array([opens], dtype=np.int64))
        names = dict(zip("ohlcv", row[1:6], strict=True))
        if not is_closed:
            names["c"] = names["h"]
        kline = {"t": row[0], "T": row[6], "s": symbol, "i": interval, **names, "x": is_closed}
        sent_at = self._now_ms() + int(self.faults.clock_ahead * 1000)
        data = {"e": "kline", "E": sent_at, "s": symbol, "k": kline}
        return json.dumps({"stream": stream, "data": data}, separators=(",", ":"))


class FastClock:
    """A clock that begins at an instant and runs `speed` times as fast as the machine's."""

    def __init__(self, begin: datetime, speed: float, started: float | None = None) -> None:
        """Minutes last 60 / speed seconds; `started` is the beginning in time.monotonic(), now if not given."""
        self._begin, self.speed = begin, speed
        self._started = time.monotonic() if started is None else started

    def now(self) -> datetime:
        """The instant, in UTC."""
        passed = (time.monotonic() - self._started) * self.speed
        return (self._begin + timedelta(seconds=passed)).astimezone(UTC)
