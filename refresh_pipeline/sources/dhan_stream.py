"""Dhan's live market feed: provisional candles, made from last traded prices, which REST corrects.

The access token and the client id stand in the address of the connection: no text that holds an address leaves here.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import numpy as np

from refresh_pipeline.market.candles import TIME_UNIT, instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import clean, excerpt, request_secrets
from refresh_pipeline.sources import Secrets, no_secrets
from refresh_pipeline.sources.dhan import FEED, INTERVALS, DhanSource
from refresh_pipeline.sources.dhan_packets import PERMANENT, SEGMENTS, Traded, packets
from refresh_pipeline.sources.streaming import Listener
from refresh_pipeline.sources.tick_candles import Bars, TickCandles

log = logging.getLogger(__name__)

# Instruments of a connection, connections of an account, instruments named by one message.
INSTRUMENTS_A_CONNECTION, MOST_CONNECTIONS, INSTRUMENTS_A_MESSAGE = 5000, 5, 100
# Request codes: prices alone, for an index, and prices with the day's volume.
SUBSCRIBE_TICKER, SUBSCRIBE_QUOTE = 15, 17
# Seconds after a close at which the bar is taken for closed: its last ticks have come.
SETTLED = 0.5
# Seconds that a last trade may lie after this machine's clock.
AHEAD = 5
# Seconds before the first attempt to connect again; each later wait is twice as long, up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
CONNECT_TIMEOUT = 10.0
# Bytes of a message, and answers to a handshake after which another attempt soon does not help.
LARGEST_MESSAGE, REFUSALS = 1024 * 1024, (401, 403, 429)

# An instrument as a packet names it.
Key = tuple[int, int]


class DhanStream(DhanSource):
    """Candles of m1, m5, m15 and H1 from the feed; those of an incomplete bar are left to REST."""

    # Never taken for the exchange's own candles.
    kind = FEED
    streamed_timeframes: Sequence[Timeframe] = tuple(INTERVALS)

    def __init__(
        self,
        market: Market,
        limits_dir: Path,
        secrets: Secrets = no_secrets,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        speed: float = 1.0,
    ) -> None:
        """The feed of one market; `speed` is how much faster than the machine's clock `clock` runs."""
        super().__init__(market, limits_dir, secrets)
        self.clock, self.speed = clock, speed

    async def listen(self, series: Sequence[Series], listener: Listener, silence: float) -> None:
        """See Streaming; a market that is closed is silent for good reason."""
        by_instrument: dict[Key, list[Series]] = {}
        for each in series:
            if (key := self._key(each.instrument)) is not None:
                by_instrument.setdefault(key, []).append(each)
        live, keys = self._market.live, list(by_instrument)
        wanted = max(live.streams if live else 1, -(-len(keys) // INSTRUMENTS_A_CONNECTION))
        count = min(wanted, MOST_CONNECTIONS)
        if len(keys) > INSTRUMENTS_A_CONNECTION * MOST_CONNECTIONS:
            log.warning("%s: REST alone serves what lies beyond 25,000 instruments", self._market.name)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                if shared := keys[number::count][:INSTRUMENTS_A_CONNECTION]:
                    part = {key: by_instrument[key] for key in shared}
                    group.create_task(_Connection(self, self._market, part, listener, silence).keep())

    def address(self) -> tuple[str, list[str]]:
        """Where to connect, and the secrets in it; read anew, as a token lasts a day.

        Raises:
            RefusedError: a credential is not set.
        """
        names = (self._options.client_id, self._options.access_token)
        client_id, token = (self._secrets(name) or "" for name in names)
        if not client_id or not token:
            raise RefusedError(f"Dhan wants a client id and an access token: set {' and '.join(names)}")
        query = {"version": "2", "token": token, "clientId": client_id, "authType": "2"}
        return f"{self._options.stream}?{urlencode(query)}", [token, client_id]

    def _key(self, instrument: str) -> Key | None:
        details = self._market.instruments[instrument]
        security_id = str(details.ids.get("security_id", ""))
        segment = "IDX_I" if details.asset_class == "index" else "NSE_EQ"
        return (SEGMENTS[segment], int(security_id)) if security_id.isdecimal() else None


class RefusedError(Exception):
    """The feed is not open to this account: an attempt soon would not help."""


class _Connection:
    """One connection for some instruments, opened again whenever it ends."""

    def __init__(
        self,
        stream: DhanStream,
        market: Market,
        instruments: Mapping[Key, Sequence[Series]],
        listener: Listener,
        silence: float,
    ) -> None:
        self._stream, self._market, self._instruments = stream, market, instruments
        self._listener, self._silence = listener, silence
        self._series = [each for part in instruments.values() for each in part]
        self._candles: dict[Key, list[TickCandles]] = {}
        self._is_heard = self._is_warned = False

    async def keep(self) -> None:
        """Listen for ever."""
        wait = FIRST_WAIT
        while True:
            self._is_heard = False
            reason, could_help = await self._attempted()
            self._listener.ended(self._series, reason)
            wait = LONGEST_WAIT if not could_help else FIRST_WAIT if self._is_heard else wait
            await asyncio.sleep(wait * random.uniform(0.5, 1.0) / self._stream.speed)
            wait = min(wait * 2, LONGEST_WAIT)

    async def _attempted(self) -> tuple[str, bool]:
        """Hold one connection; gives why it ended, without secrets, and whether another one soon could help."""
        try:
            address, secrets = self._stream.address()
        except RefusedError as error:
            return str(error), False
        with request_secrets(secrets):
            try:
                return clean(await self._held(address)), True
            except RefusedError as error:
                return clean(str(error)), False
            except aiohttp.WSServerHandshakeError as error:
                # Its text holds the address.
                text = f"Dhan refused the connection with HTTP {error.status}"
                return f"{text}; is the access token good for this client id?", error.status not in REFUSALS
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                return f"{type(error).__name__}: {excerpt(str(error))}", True

    async def _held(self, address: str) -> str:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.ws_connect(
                address,
                max_msg_size=LARGEST_MESSAGE,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),  # pyright: ignore[reportCallIssue] (attrs)
            ) as socket,
        ):
            await self._subscribe(socket)
            self._begin()
            self._listener.opened(self._series)
            closing = asyncio.create_task(self._close_bars())
            try:
                return await self._read(socket)
            finally:
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        for code, segment in ((SUBSCRIBE_TICKER, "IDX_I"), (SUBSCRIBE_QUOTE, "NSE_EQ")):
            members = [number for of, number in self._instruments if of == SEGMENTS[segment]]
            for begin in range(0, len(members), INSTRUMENTS_A_MESSAGE):
                part = members[begin : begin + INSTRUMENTS_A_MESSAGE]
                listed = [{"ExchangeSegment": segment, "SecurityId": str(number)} for number in part]
                await socket.send_json({"RequestCode": code, "InstrumentCount": len(part), "InstrumentList": listed})

    def _begin(self) -> None:
        """Know nothing but that the bars of now are incomplete."""
        complete_from = self._second() + 1
        bars: dict[tuple[str, Timeframe], Bars] = {}
        self._candles = {}
        for key, series in self._instruments.items():
            for each in series:
                calendar = self._market.calendar_of(each.instrument)
                shared = bars.setdefault((calendar.name, each.timeframe), Bars(calendar, each.timeframe))
                self._candles.setdefault(key, []).append(TickCandles(each, shared, complete_from))

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> str:
        """Take in packets until the connection ends; gives the reason.

        Raises:
            RefusedError: the account may not listen.
        """
        while True:
            try:
                message = await socket.receive(timeout=self._silence)
            except TimeoutError:
                if not self._is_open():
                    continue
                return f"no message within {self._silence:g} s"
            if message.type is not aiohttp.WSMsgType.BINARY:
                return f"Dhan closed the connection ({message.type.name}, code {socket.close_code})"
            for packet in packets(message.data):
                if isinstance(packet, Traded):
                    self._take(packet)
                elif packet.code in PERMANENT:
                    raise RefusedError(packet.reason)
                else:
                    return packet.reason

    def _take(self, traded: Traded) -> None:
        """Take in a tick; one from the future goes by another clock than India's, and is not guessed at."""
        self._is_heard = True
        if traded.tick.second > self._second() + AHEAD:
            if not self._is_warned:
                log.warning("%s: last trades lie in the future: is this machine's clock right?", self._market.name)
            self._is_warned = True
            return
        for candles in self._candles.get((traded.segment, traded.security_id), ()):
            if (closed := candles.take(traded.tick)) is not None:
                self._listener.closed(closed)

    async def _close_bars(self) -> None:
        """Tell of what has ended, shortly after each close of the shortest timeframe."""
        shortest, calendar = min(each.timeframe for each in self._series), self._market.calendar
        while True:
            now = instant(self._stream.clock())
            close = calendar.next_close(shortest, now)
            await asyncio.sleep(float((close - now) / np.timedelta64(1, "s")) / self._stream.speed + SETTLED)
            second = int(close.astype("datetime64[s]").astype(np.int64))
            for candles in [each for part in self._candles.values() for each in part]:
                if (closed := candles.close(second)) is not None:
                    self._listener.closed(closed)

    def _second(self) -> int:
        return int(self._stream.clock().timestamp())

    def _is_open(self) -> bool:
        return bool(self._market.calendar.is_open(np.array([instant(self._stream.clock())], dtype=TIME_UNIT))[0])
