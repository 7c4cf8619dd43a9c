"""Kraken with the candles of its WebSocket v2 beside its REST, on loopback: a clock that may run fast, and faults.

    with StreamingKraken(clock.now, speed) as venue:
        ...  # put venue.base_url into a market's YAML of kind ccxt, exchange kraken: its streams are on the same host
        venue.faults.missing.add("BTC/USD")

A subscription is answered with a snapshot. Then each series has three messages a minute: the first prices, others in
the middle, and the last ones just before the end. Nothing tells that a candle is closed.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from refresh_pipeline_tests.fakes.kraken import FakeKraken, row
from refresh_pipeline_tests.fakes.sockets import Sockets

PAIR_OF = {"BTC/USD": "XXBTZUSD", "ETH/USD": "XETHZUSD"}
SNAPSHOT = 5
# Seconds of a minute, by the venue's clock, at which a message is sent.
FIRST, MIDDLE, LAST = 0.5, 30, 58


@dataclass
class CandleFaults:
    """What goes wrong: sets hold symbols, and apply until they are taken out again."""

    # The first message of a minute comes in its middle.
    late: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    # The candle before comes again, with other numbers, behind each message.
    out_of_order: set[str] = field(default_factory=set)
    # The last message of a minute is lost.
    torn: set[str] = field(default_factory=set)
    # Connections go on without candles.
    stalled: bool = False
    # New connections are refused with HTTP 503.
    refused: bool = False


class StreamingKraken(Sockets, FakeKraken):
    """The venue; `connections` counts those that were opened, `subscribed` what was asked for."""

    def __init__(self, clock: Callable[[], datetime], speed: float = 1.0) -> None:
        """A venue whose minutes last 60 / speed seconds."""
        self._clock, self._speed = clock, speed
        super().__init__(clock())
        self.faults = CandleFaults()
        self.connections = 0
        self.subscribed: list[tuple[str, int]] = []
        self._sockets: dict[web.WebSocketResponse, set[tuple[str, int]]] = {}
        self._pushing: asyncio.Task[None] | None = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        return await (self._stream(request) if request.path == "/v2" else super()._handle(request))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.faults.refused:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        self._sockets[socket] = set()
        self._pushing = self._pushing or asyncio.create_task(self._push())
        async for message in socket:
            order = json.loads(message.data)
            with contextlib.suppress(ConnectionError):
                if order["method"] == "subscribe":
                    await self._subscribe(socket, order)
                elif order["method"] == "ping":
                    await socket.send_json({"method": "pong", "req_id": order.get("req_id")})
        self._sockets.pop(socket, None)
        return socket

    async def _subscribe(self, socket: web.WebSocketResponse, order: dict[str, Any]) -> None:
        [symbol], interval = order["params"]["symbol"], order["params"]["interval"]
        if symbol not in PAIR_OF:
            refusal = {"error": f"Currency pair not supported {symbol}", "method": "subscribe", "success": False}
            await socket.send_json({**refusal, "req_id": order["req_id"]})
            return
        self.subscribed.append((symbol, interval))
        result = {"channel": "ohlc", "interval": interval, "snapshot": True, "symbol": symbol}
        await socket.send_json({"method": "subscribe", "result": result, "success": True, "req_id": order["req_id"]})
        opens = self._minute(interval)
        candles = [candle(symbol, opens - back * interval * 60, interval) for back in range(SNAPSHOT)][::-1]
        # The forming one has not its last prices yet.
        candles[-1] = forming(candles[-1], 2.0)
        await socket.send_json({"channel": "ohlc", "type": "snapshot", "data": candles})
        self._sockets[socket].add((symbol, interval))

    def _minute(self, interval: int = 1) -> int:
        seconds = int(self._clock().timestamp())
        return seconds - seconds % (interval * 60)

    async def _push(self) -> None:
        minute = self._minute() + 60
        while True:
            for second in (FIRST, MIDDLE, LAST):
                wait = minute + second - self._clock().timestamp()
                await asyncio.sleep(max(wait / self._speed, 0))
                for socket, subscribed in list(self._sockets.items()):
                    for symbol, interval in sorted(subscribed):
                        for message in self._messages(symbol, interval, minute, second):
                            with contextlib.suppress(ConnectionError):
                                await socket.send_json(message)
            minute += 60

    def _messages(self, symbol: str, interval: int, minute: int, second: float) -> Iterator[dict[str, Any]]:
        faults, opens = self.faults, minute - minute % (interval * 60)
        if faults.stalled or symbol in faults.missing:
            return
        is_last = second == LAST and opens + interval * 60 == minute + 60
        if (symbol in faults.late and second == FIRST) or (symbol in faults.torn and is_last):
            return
        whole = candle(symbol, opens, interval)
        told = [whole if is_last else forming(whole, second)]
        told += told if symbol in faults.twice else []
        if symbol in faults.out_of_order:
            told.append(forming(candle(symbol, opens - interval * 60, interval), 7.0))
        for one in told:
            yield {"channel": "ohlc", "type": "update", "timestamp": _text(minute + second), "data": [one]}


def candle(symbol: str, opens: int, interval: int) -> dict[str, Any]:
    """The whole candle that opens at so many seconds since 1970, as the stream tells it."""
    _, first, high, low, close, vwap, volume, trades = row(PAIR_OF[symbol], opens)
    return {
        "symbol": symbol,
        **{
            name: float(text)
            for name, text in zip(("open", "high", "low", "close"), (first, high, low, close), strict=True)
        },
        "vwap": float(vwap),
        "volume": float(volume),
        "trades": trades,
        "interval_begin": _text(opens),
        "interval": interval,
        "timestamp": _text(opens + interval * 60),
    }


def forming(whole: dict[str, Any], second: float) -> dict[str, Any]:
    """The candle before its last trades."""
    return {**whole, "close": whole["low"], "volume": second / 100}


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
