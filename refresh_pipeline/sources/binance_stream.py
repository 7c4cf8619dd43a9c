"""Binance's kline streams: closed candles, pushed. Subscribed by message, because 1,000 streams make a URL of 20 kB.

Contract: binance/binance-spot-api-docs, web-socket-streams.md. The closed flag `x` is the only proof of a close.
"""

import asyncio
import json
import logging
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.model import Market, normalized, source_options
from refresh_pipeline.market.series import Series
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import Secrets, SourceError, TransientError, no_secrets
from refresh_pipeline.sources.binance import INTERVALS, BinanceOptions
from refresh_pipeline.sources.http_source import venue_at
from refresh_pipeline.sources.rate_limits import SharedLimit
from refresh_pipeline.sources.streaming import ClosedCandle, Listener

log = logging.getLogger(__name__)

# Streams named by one message, and seconds between two messages: a connection takes 5 a second.
STREAMS_A_MESSAGE, BETWEEN_MESSAGES = 400, 0.25
# A connection takes 1,024 streams.
STREAMS_A_CONNECTION = 1000
# Seconds before the first attempt to connect again; each later wait is twice as long, up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.1, 30.0
# Attempts to connect that the venue allows an address in five minutes.
ATTEMPTS, ATTEMPTS_SECONDS = 300, 300.0
CONNECT_TIMEOUT = 10.0
HEARTBEAT = 20.0
# Most messages are of forming candles: these are told by a glance.
CLOSED = '"x":true'
SHUTDOWN = '"serverShutdown"'


class BinanceStream:
    """Closed klines of any spot symbol."""

    kind = "binance"
    streamed_timeframes = tuple(INTERVALS)

    def __init__(self, market: Market, limits_dir: Path, secrets: Secrets = no_secrets) -> None:
        """The streams of one market, which need no secrets; attempts to connect are limited for all processes."""
        self._market, self._options = market, source_options(market, BinanceOptions)
        venue = venue_at("binance-stream", self._options.stream)
        self._limit = SharedLimit(limits_dir, venue, ATTEMPTS, ATTEMPTS_SECONDS)

    async def listen(self, series: Sequence[Series], listener: Listener, silence: float) -> None:
        """See Streaming."""
        live = self._market.live
        connections = max(live.streams if live else 1, -(-len(series) // STREAMS_A_CONNECTION))
        async with asyncio.TaskGroup() as group:
            for number in range(connections):
                if shared := series[number::connections]:
                    group.create_task(
                        _Connection(self._options.stream, self._limit, self._names(shared)).keep(listener, silence)
                    )

    def _names(self, series: Sequence[Series]) -> dict[str, Series]:
        return {
            f"{self._market.symbol(each.instrument, normalized).lower()}@kline_{INTERVALS[each.timeframe]}": each
            for each in series
        }


class _Connection:
    """One connection for some streams, opened again whenever it ends."""

    def __init__(self, url: str, limit: SharedLimit, streams: dict[str, Series]) -> None:
        self._url, self._limit, self._streams = f"{url.rstrip('/')}/stream", limit, streams
        self._series = list(streams.values())

    async def keep(self, listener: Listener, silence: float) -> None:
        """Listen for ever."""
        wait = FIRST_WAIT
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    await self._attempt()
                    async with session.ws_connect(
                        self._url,
                        heartbeat=HEARTBEAT,
                        max_msg_size=0,
                        timeout=aiohttp.ClientWSTimeout(ws_close=1.0),  # pyright: ignore[reportCallIssue] (attrs)
                    ) as socket:
                        await self._subscribe(socket)
                        wait = FIRST_WAIT
                        listener.opened(self._series)
                        reason = await self._read(socket, listener, silence)
                except (aiohttp.ClientError, SourceError, OSError, TimeoutError, ValueError) as error:
                    reason = f"{type(error).__name__}: {excerpt(str(error))}"
                listener.ended(self._series, reason)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, LONGEST_WAIT)

    async def _attempt(self) -> None:
        while seconds := self._limit.take(1):
            await asyncio.sleep(seconds)

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        names = list(self._streams)
        for begin in range(0, len(names), STREAMS_A_MESSAGE):
            if begin:
                await asyncio.sleep(BETWEEN_MESSAGES)
            message = {"method": "SUBSCRIBE", "params": names[begin : begin + STREAMS_A_MESSAGE], "id": begin}
            await socket.send_json(message)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, listener: Listener, silence: float) -> str:
        """Hand over closed candles until the connection ends; gives the reason."""
        while True:
            try:
                message = await socket.receive(timeout=silence)
            except TimeoutError:
                # A silent stream answers pings all the same.
                return f"no message within {silence:g} s"
            if message.type is not aiohttp.WSMsgType.TEXT:
                return f"the venue closed the connection ({message.type.name}, code {socket.close_code})"
            text = message.data
            if SHUTDOWN in text:
                return "the venue announced a shutdown"
            if CLOSED in text:
                self._hand_over(text, listener)
            elif '"error"' in text or '"code"' in text:
                raise TransientError(f"the venue refused a subscription: {excerpt(text)}")

    def _hand_over(self, text: str, listener: Listener) -> None:
        try:
            body = json.loads(text)
            candle = self._candle(body["stream"], body["data"]["k"])
            sent_at = float(body["data"]["E"]) / 1000
        except (ValueError, LookupError, TypeError) as error:
            log.warning("A message of a kline stream cannot be read (%s): %s", error, excerpt(text))
            return
        if candle is not None:
            listener.told_time(sent_at)
            listener.closed(candle)

    def _candle(self, stream: str, kline: dict[str, Any]) -> ClosedCandle | None:
        series = self._streams.get(stream)
        if series is None or kline["x"] is not True:
            return None
        return ClosedCandle(series, _instant(int(kline["t"])), tuple(float(kline[name]) for name in "ohlcv"))


@lru_cache(maxsize=64)
def _instant(milliseconds: int) -> np.datetime64:
    """Milliseconds since 1970 as the type of times; hundreds of closes have the same."""
    return np.datetime64(milliseconds, "ms").astype(TIME_UNIT)
