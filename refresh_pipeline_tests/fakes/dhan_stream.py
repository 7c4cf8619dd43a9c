"""Dhan's live market feed beside its REST, on loopback: binary packets, a clock that may run fast, and faults.

    with StreamingDhan(clock.now, speed) as venue:
        ...  # put venue.base_url into a market's YAML: its feed is on the same host
        venue.faults.missing.add("2885")

Each minute has four trades, at its candle's open, high, low and close. A message may have two packets.
"""

import asyncio
import contextlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from aiohttp import web

from refresh_pipeline_tests.fakes.dhan import INDIA, INDICES, FakeDhan
from refresh_pipeline_tests.fakes.sockets import Sockets

MINUTE = timedelta(minutes=1)
# The seconds of a minute at which its trades are, and the columns of their prices.
TRADES = ((2, "open"), (20, "high"), (35, "low"), (56, "close"))
QUOTE, TICKER = 17, 15


@dataclass
class FeedFaults:
    """What goes wrong: sets hold security ids, and apply until they are taken out again."""

    # The last trade of a minute comes when the next one has begun.
    late: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    # Each packet comes twice, and the one before it behind it.
    twice: set[str] = field(default_factory=set)
    # The highest trade of a minute is left out.
    thinned: set[str] = field(default_factory=set)
    # A packet breaks off.
    torn: bool = False
    stalled: bool = False
    # The status that a handshake is answered with, and the code of the packet that ends a new connection.
    refused: int = 0
    disconnects: int = 0


class StreamingDhan(Sockets, FakeDhan):
    """The venue; `connections` counts those that were opened, `orders` are the subscriptions that came."""

    def __init__(self, clock: Callable[[], datetime], speed: float = 1.0) -> None:
        """A venue whose minutes last 60 / speed seconds."""
        self._clock, self._speed = clock, speed
        super().__init__(clock())
        self.faults = FeedFaults()
        self.connections = 0
        self.orders: list[dict[str, Any]] = []
        self._sockets: dict[web.WebSocketResponse, dict[str, int]] = {}
        self._pushing: asyncio.Task[None] | None = None
        self._before: dict[str, bytes] = {}

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        return await (self._feed(request) if request.path == "/" else super()._handle(request))

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        shown = {name: request.query.get(name) for name in ("version", "token", "clientId", "authType")}
        wanted = {"version": "2", "token": self.token, "clientId": self.client_id, "authType": "2"}
        if self.faults.refused or shown != wanted:
            return web.Response(status=self.faults.refused or 401)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        if self.faults.disconnects:
            await socket.send_bytes(struct.pack("<BHBIH", 50, 10, 0, 0, self.faults.disconnects))
        self._sockets[socket] = {}
        self._pushing = self._pushing or asyncio.create_task(self._push())
        async for message in socket:
            order = json.loads(message.data)
            self.orders.append(order)
            for one in order["InstrumentList"]:
                self._sockets[socket][one["SecurityId"]] = order["RequestCode"]
                with contextlib.suppress(ConnectionError):
                    await socket.send_bytes(self._snapshot(one["SecurityId"], order["RequestCode"]))
        self._sockets.pop(socket, None)
        return socket

    def _snapshot(self, security_id: str, code: int) -> bytes:
        """What was traded last, behind packets that say nothing of trades."""
        now, minute = self._clock(), self._minute()
        past = [number for number, (second, _) in enumerate(TRADES) if minute + timedelta(seconds=second) <= now]
        minute, number = (minute, past[-1]) if past else (minute - MINUTE, len(TRADES) - 1)
        before = struct.pack("<BHBIfI", 6, 16, 1, int(security_id), 100.0, 0)
        status = struct.pack("<BHBI", 7, 8, 1, int(security_id))
        return before + status + self.packet(security_id, code, minute, number)

    def _minute(self) -> datetime:
        return self._clock().replace(second=0, microsecond=0)

    async def _push(self) -> None:
        minute, begun = self._minute(), self._clock()
        while True:
            for number, (second, _) in enumerate(TRADES):
                if minute + timedelta(seconds=second) < begun:
                    continue
                await self._sleep_until(minute + timedelta(seconds=second + 0.2))
                for socket, subscribed in list(self._sockets.items()):
                    for security_id, code in subscribed.items():
                        for data in self._sent(security_id, code, minute, number):
                            with contextlib.suppress(ConnectionError):
                                await socket.send_bytes(data)
            minute += MINUTE

    async def _sleep_until(self, moment: datetime) -> None:
        await asyncio.sleep(max((moment - self._clock()).total_seconds() / self._speed, 0))

    def _sent(self, security_id: str, code: int, minute: datetime, number: int) -> Iterator[bytes]:
        faults, last = self.faults, len(TRADES) - 1
        if faults.stalled or security_id in faults.missing:
            return
        if TRADES[number][1] == "high" and security_id in faults.thinned:
            return
        data = self.packet(security_id, code, minute, number)
        if security_id in faults.late:
            if number == last:
                return
            if number == 0:
                # Both in one message, the older trade first.
                data = self.packet(security_id, code, minute - MINUTE, last) + data
        yield data
        if security_id in faults.twice:
            yield data
            yield self._before.get(security_id, data)
        if faults.torn:
            faults.torn = False
            yield data[:-3]
        self._before[security_id] = data

    def packet(self, security_id: str, code: int, minute: datetime, number: int) -> bytes:
        """The packet after a trade of a minute."""
        second, column = TRADES[number]
        price = self._row_of(security_id, minute)[column]
        stamp = int((minute + INDIA).timestamp()) + second
        if code == TICKER:
            return struct.pack("<BHBIfI", 2, 16, 0, int(security_id), price, stamp)
        header = (4, 50, 1, int(security_id))
        volume = self._traded_before(security_id, minute) + self._part(security_id, minute, number)
        return struct.pack("<BHBIfHIfIIIffff", *header, price, 5, stamp, price, volume, 7, 8, 1.0, 1.0, 1.0, 1.0)

    def _row_of(self, security_id: str, minute: datetime) -> dict[str, Any]:
        return self._row(security_id, "1", minute.astimezone(UTC).replace(tzinfo=None) + INDIA)

    def _part(self, security_id: str, minute: datetime, number: int) -> int:
        """What was traded of a minute's volume after so many of its trades."""
        volume = self._row_of(security_id, minute)["volume"]
        return volume if number == len(TRADES) - 1 else volume * (number + 1) // len(TRADES)

    def _traded_before(self, security_id: str, minute: datetime) -> int:
        return 0 if security_id in INDICES else _sum_before(self, security_id, minute)


@cache
def _sum_before(venue: StreamingDhan, security_id: str, minute: datetime) -> int:
    opens = minute.replace(hour=3, minute=45)
    count = int((minute - opens) / MINUTE)
    return 5000 + sum(venue._row_of(security_id, opens + MINUTE * number)["volume"] for number in range(count))
