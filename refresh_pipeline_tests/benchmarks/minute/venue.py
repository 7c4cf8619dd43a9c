"""Binance spot in miniature at next to no cost: klines of one minute for as many symbols as are asked for.

Run as `python -m refresh_pipeline_tests.benchmarks.minute.venue SERIES`; it tells its address, and ends when its
standard input does. A candle is a function of symbol and minute alone. It answers by the machine's clock, the forming
candle included, and tells the weight that was used, as the venue does; faults are the fakes' part.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

MINUTE_MS = 60_000
MAX_LIMIT = 1000
DEFAULT_LIMIT = 500
WEIGHTS = {"klines": 2, "time": 1, "exchangeInfo": 20}
# The venue's own, or eight times what all symbols' newest candles take.
WEIGHT_PER_MINUTE = 6000
UNKNOWN = {"code": -1121, "msg": "Invalid symbol."}


def symbols(series: int) -> list[str]:
    """What is traded."""
    return [f"S{number:04d}USDT" for number in range(series)]


def price(number: int, minute: int) -> float:
    """Two waves and some noise around a price of the symbol's own, to the hundredth of a percent or so."""
    noise = ((minute * 2_654_435_761 + number * 40_503) >> 7 & 0xFFFF) / 0xFFFF - 0.5
    waves = 0.02 * math.sin(minute / 173 + number) + 0.006 * math.sin(minute / 19 + 2 * number)
    return round((3 + number * 1.37) * (1 + waves + 0.002 * noise), 4)


def kline(number: int, minute: int) -> list[Any]:
    """A row as the venue sends it; the minute is counted from 1970.

    >>> row = kline(3, 29_000_000)
    >>> row[0], row[6] - row[0], float(row[3]) <= float(row[1]) <= float(row[2]), row[4] == kline(3, 29_000_001)[1]
    (1740000000000, 59999, True, True)
    """
    opened, closed = price(number, minute), price(number, minute + 1)
    volume = round(20 + 15 * math.sin(minute / 7 + number) + (minute * 7919 + number) % 101 / 10, 2)
    prices = (opened, max(opened, closed) * 1.0004, min(opened, closed) * 0.9996, closed)
    start = minute * MINUTE_MS
    texts = [f"{value:.4f}0000" for value in prices]
    return [start, *texts, f"{volume:.8f}", start + MINUTE_MS - 1, f"{volume * opened:.8f}", 100, "1.0", "1.0", "0"]


def klines(query: Mapping[str, str], numbers: Mapping[str, int], now_ms: int) -> tuple[int, Any]:
    """Status and body for a request: from startTime on, up to endTime and now, both inclusive, at most `limit` rows.

    >>> asked = {"symbol": "S0001USDT", "interval": "1m", "startTime": "60000", "endTime": "299999", "limit": "1000"}
    >>> [row[0] for row in klines(asked, {"S0001USDT": 1}, now_ms=190_000)[1]]
    [60000, 120000, 180000]
    """
    if query["symbol"] not in numbers or query["interval"] != "1m":
        return 400, UNKNOWN
    rows = min(int(query.get("limit", DEFAULT_LIMIT)), MAX_LIMIT)
    last = min(int(query.get("endTime", now_ms)), now_ms) // MINUTE_MS
    first = -(-int(query["startTime"]) // MINUTE_MS) if "startTime" in query else last - rows + 1
    number = numbers[query["symbol"]]
    return 200, [kline(number, minute) for minute in range(first, min(last + 1, first + rows))]


class Venue:
    """What it trades, and the weight that was used in the current minute."""

    def __init__(self, series: int) -> None:
        self._numbers = {symbol: number for number, symbol in enumerate(symbols(series))}
        self._limit = max(WEIGHT_PER_MINUTE, 8 * WEIGHTS["klines"] * series)
        self._minute, self._used = 0, 0

    def answer(self, target: str) -> bytes:
        """The whole response to a request of this path and query."""
        now_ms = int(time.time() * 1000)
        path, _, query = target.partition("?")
        name = path.rpartition("/")[2]
        if now_ms // MINUTE_MS != self._minute:
            self._minute, self._used = now_ms // MINUTE_MS, 0
        self._used += WEIGHTS.get(name, 1)
        status, body = self._body(name, dict(parse_qsl(query)), now_ms)
        text = json.dumps(body, separators=(",", ":")).encode()
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nX-MBX-USED-WEIGHT-1M: {self._used}\r\n"
        return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text

    def _body(self, name: str, query: Mapping[str, str], now_ms: int) -> tuple[int, Any]:
        if name == "klines":
            return klines(query, self._numbers, now_ms)
        if name == "time":
            return 200, {"serverTime": now_ms}
        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self._limit}
        return (200, {"rateLimits": [limit]}) if name == "exchangeInfo" else (404, {"error": "Not Found"})


async def serve(series: int) -> None:
    """Answer on loopback until standard input ends; prints the address first."""
    venue = Venue(series)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            writer.write(venue.answer(head.split(b" ", 2)[1].decode()))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
