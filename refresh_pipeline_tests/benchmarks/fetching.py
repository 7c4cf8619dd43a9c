"""Fetching: the newest candles of many series from a venue on loopback, and the same answers by a bare loop.

The venue is a process of its own that answers with the same ten klines whatever it is asked, so that its work counts on
neither side. The bare loop asks the same questions with the same client, so many at once, and reads the JSON: what ours
takes beyond it is limits, retries, arrays, validation of shape, and the way from one thread to the other.
"""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
from httpx_aiohttp import AiohttpTransport

from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.sources import Request, Source
from refresh_pipeline.sources.http import CONNECTIONS
from refresh_pipeline.sources.opening import open_source
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size

NOW = datetime(2026, 1, 7, 12, tzinfo=UTC)
CANDLES = 10
DESIGN = "design: at most 1.3 of the bare loop"


def answers() -> dict[bytes, bytes]:
    """What the venue says, by the path."""
    now = int(NOW.timestamp() * 1000)
    opens = [now - 60_000 * (CANDLES - number) for number in range(CANDLES)]
    row = ["100.00000000", "101.00000000", "99.00000000", "100.50000000", "12.34000000"]
    klines = [[at, *row, at + 59_999, "1234.5", 100, "6.1", "617.2", "0"] for at in opens]
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 10_000_000}
    bodies = {b"klines": klines, b"time": {"serverTime": now}, b"exchangeInfo": {"rateLimits": [limit]}}
    return {path: _response(json.dumps(body).encode()) for path, body in bodies.items()}


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def serve(told: Connection) -> None:
    """Answer on loopback until the other end of the pipe is closed; tells its port first."""
    known = answers()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            path = head.split(b" ", 2)[1].partition(b"?")[0].rpartition(b"/")[2]
            writer.write(known[path])
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(told.poll, None)

    asyncio.run(run())


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


@contextmanager
def venue() -> Iterator[str]:
    """The address of the venue, which is gone after the block."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        ours.close()
        process.terminate()
        process.join()
        process.close()


def market_of(size: Size, base_url: str) -> Market:
    """So many symbols on m1."""
    instruments = ", ".join(f"S{number:03d}USDT" for number in range(size.series))
    text = f"""{{name: wide, source: {{kind: binance, base_url: "{base_url}"}}, calendar: crypto,
        instruments: [{instruments}], timeframes: [m1], history: 1d}}"""
    return parse_market(text, file="wide.yaml")


def measure(size: Size, folder: Path) -> list[Comparison]:
    """Wall time and processor time of one fetch of all series."""
    with venue() as base_url:
        market = market_of(size, base_url)
        source = open_source(market, folder / "limits")
        since = instant(NOW - timedelta(minutes=CANDLES))
        requests = [Request(each, since, instant(NOW)) for each in market.series]
        _timed_ours(source, requests)
        rounds = [(_timed_ours(source, requests), _timed_bare(base_url, market)) for _ in range(size.rounds)]
    kinds = (("wall time", 0), ("processor time", 1))
    return [
        Comparison(what, [each[0][n] for each in rounds], [each[1][n] for each in rounds], _note(what, rounds, n, size))
        for what, n in kinds
    ]


def _note(what: str, rounds: Sequence[tuple[tuple[float, float], tuple[float, float]]], n: int, size: Size) -> str:
    ours, bare = (sorted(each[side][n] for each in rounds)[len(rounds) // 2] for side in (0, 1))
    if what == "wall time":
        return f"{size.series / ours:,.0f} requests/s, bare {size.series / bare:,.0f}; {DESIGN}"
    return f"{ours / size.series * 1e6:,.0f} us a request, bare {bare / size.series * 1e6:,.0f}; {DESIGN}"


def _timed_ours(source: Source, requests: Sequence[Request]) -> tuple[float, float]:
    began, spent = time.perf_counter(), time.process_time()
    got = [each for each in source.fetch(requests, NOW) if each.last]
    taken = time.perf_counter() - began, time.process_time() - spent
    assert [str(each.error) for each in got if each.error] == []
    assert sum(len(each.candles) for each in got) == len(requests) * CANDLES
    return taken


def _timed_bare(base_url: str, market: Market) -> tuple[float, float]:
    until = int(NOW.timestamp() * 1000)
    since = until - 60_000 * CANDLES
    urls = [
        f"{base_url}/api/v3/klines?symbol={name}&interval=1m&startTime={since}&endTime={until - 1}&limit=1000"
        for name in market.instruments
    ]
    began, spent = time.perf_counter(), time.process_time()
    rows = asyncio.run(_bare_loop(urls))
    taken = time.perf_counter() - began, time.process_time() - spent
    assert rows == len(urls) * CANDLES
    return taken


async def _bare_loop(urls: Sequence[str]) -> int:
    waiting, rows = iter(urls), 0
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(transport=AiohttpTransport(limits=limits)) as client:

        async def work() -> None:
            nonlocal rows
            for url in waiting:
                received = (await client.get(url)).json()
                rows += len(received)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(work())
    return rows
