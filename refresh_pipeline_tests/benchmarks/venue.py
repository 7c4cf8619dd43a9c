"""A venue on loopback in a process of its own: Binance in shape, as fast as Python answers, and it never refuses.

Its candles are a function of symbol, interval and time alone, so that a history can be stored without asking for it.
The clock stands where the benchmark sets it, or is the machine's; limits are so high that they bind nobody.
"""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

import numpy as np

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.candles import CANDLE_COLUMNS, TIME_UNIT, Candles, Floats
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources.binance import INTERVALS
from refresh_pipeline_tests.benchmarks.measuring import SEED

BEGIN = datetime(2026, 1, 7, 12, tzinfo=UTC)
LIMIT = 100_000_000
# So many histories there are, of so many bars, each of which goes on where it began.
WALKS, LENGTH = 16, 1 << 16
MILLISECONDS = {INTERVALS[each]: int(length_of(each) / np.timedelta64(1, "ms")) for each in INTERVALS}


# ---- its candles


@cache
def walk(number: int, interval: str) -> Mapping[str, Floats]:
    """The columns of one endless history, by the number of a bar since 1970, modulo its length."""
    random = np.random.default_rng([SEED, number, MILLISECONDS[interval]])
    steps = np.cumsum(random.normal(0, 0.001, LENGTH))
    close = 100 * np.exp(steps - np.linspace(0, steps[-1], LENGTH))
    open_ = np.roll(close, 1)
    wicks = 1 + np.abs(random.normal(0, 0.0005, (2, LENGTH)))
    high, low = np.maximum(open_, close) * wicks[0], np.minimum(open_, close) / wicks[1]
    volume = random.integers(1, 1_000_000, LENGTH) / 100
    return {name: np.round(one, 4) for name, one in zip(CANDLE_COLUMNS, (open_, high, low, close, volume), strict=True)}


def walk_of(symbol: str) -> int:
    """Which history a symbol has: by the digits in it."""
    return int("".join(each for each in symbol if each.isdigit()) or 0) % WALKS


def candles_of(series: Series, before: datetime, count: int) -> Candles:
    """The newest candles of a series that have closed before an instant."""
    interval = INTERVALS[series.timeframe]
    end = int(before.timestamp() * 1000) // MILLISECONDS[interval]
    bars = np.arange(end - count, end)
    columns = walk(walk_of(series.instrument), interval)
    opens = (bars * MILLISECONDS[interval] * 1000).astype(TIME_UNIT)
    return Candles(opens, {name: values[bars % LENGTH] for name, values in columns.items()})


@cache
def _texts(number: int, interval: str) -> list[str]:
    columns = walk(number, interval)
    return ['"' + '","'.join(map(repr, row)) + '"' for row in zip(*(v.tolist() for v in columns.values()), strict=True)]


def klines(asked: Mapping[str, Sequence[str]], now: int) -> bytes:
    """The answer to a question for klines; the one that has not closed yet is among them, as the venue does it."""
    interval = asked["interval"][0]
    step = MILLISECONDS[interval]
    first = -(-int(asked["startTime"][0]) // step)
    last = min(int(asked["endTime"][0]), now) // step
    texts = _texts(walk_of(asked["symbol"][0]), interval)
    rows = (
        f'[{bar * step},{texts[bar % LENGTH]},{bar * step + step - 1},"1234.5",100,"6.1","617.2","0"]'
        for bar in range(first, min(last + 1, first + int(asked["limit"][0])))
    )
    return f"[{','.join(rows)}]".encode()


# ---- its server


def serve(told: Connection) -> None:
    """Answer on loopback until the pipe's other end is closed; tells its port first, then hears what time it is."""
    # 0 as long as nobody has said what time it is: then it is the machine's.
    clock = [0]

    def answer(target: str) -> bytes:
        asked, now = urlsplit(target), clock[0] or int(time.time() * 1000)
        if asked.path.endswith("/klines"):
            return klines(parse_qs(asked.query), now)
        if asked.path.endswith("/time"):
            return json.dumps({"serverTime": now}).encode()
        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": LIMIT}
        return json.dumps({"rateLimits": [limit]}).encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            body = answer(head.split(b" ", 2)[1].decode())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    def hear() -> None:
        try:
            while True:
                clock[0] = told.recv()
                told.send(None)
        except (EOFError, OSError):
            return

    async def run() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(hear)

    asyncio.run(run())


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


@dataclass
class Venue:
    """The venue as its benchmark has it."""

    base_url: str
    pipe: Connection

    def at(self, now: datetime) -> None:
        """Set its clock."""
        self.pipe.send(int(now.timestamp() * 1000))
        self.pipe.recv()


@contextmanager
def venue(now: datetime | None = BEGIN) -> Iterator[Venue]:
    """The venue, which is gone after the block; without an instant its clock is the machine's."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        opened = Venue(f"http://127.0.0.1:{ours.recv()}", ours)
        if now:
            opened.at(now)
        yield opened
    finally:
        ours.close()
        process.terminate()
        process.join()
        process.close()


# ---- a market there


def market_at(
    base_url: str,
    series: int,
    stored: int,
    *,
    timeframes: Sequence[Timeframe] = (Timeframe.m1,),
    keep: str = "30m",
) -> Market:
    """So many symbols with a history of so many bars on each timeframe, of which few have rows of indicators."""
    instruments = ", ".join(f"S{number:04d}USDT" for number in range(series))
    history = ", ".join(f"{each}: {int(stored * length_of(each) / np.timedelta64(1, 'm'))}m" for each in timeframes)
    text = f"""{{name: wide, source: {{kind: binance, base_url: "{base_url}"}}, calendar: crypto,
        instruments: [{instruments}], timeframes: [{", ".join(timeframes)}], history: {{{history}}},
        indicators: {{keep: {keep}}}}}"""
    return parse_market(text, file="wide.yaml")


MINUTE = timedelta(minutes=1)
