"""The read API beside its floors: bare Starlette, freqtrade's way with a data frame, bare DuckDB, a writer alone.

`make bench-api`. Servers and clients are `benchmarks.servers`' part. freqtrade itself is not installed: its serve path
is the same steps over a data frame of pandas in FastAPI.
"""

import json
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import duckdb
import numpy as np
import orjson

from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.cycle import fill
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings, Size, seconds
from refresh_pipeline_tests.benchmarks.servers import BARE, CLIENTS, Load, Server, api, cost, serving
from refresh_pipeline_tests.benchmarks.venue import BEGIN, candles_of

ROWS, NARROW = 500, "open,high,low,close,volume"
# Series that have columns, those that a transaction writes, and how many candles of each series the API keeps.
WITH_COLUMNS, WRITTEN, TAIL = 32, 4, 1000
# Requests a second, listeners, clients of what is not in memory, and rounds at most: some minutes in all.
RATE, LISTENERS, COLD_CLIENTS, MOST_ROUNDS = 50, 100, 16, 3
REFRESH = [sys.executable, "-P", "-c", "from refresh_pipeline.cli import main; main()", "once"]
# Series that are refreshed beside clients, and the pages of their rows that nobody asked for before.
REFRESHED, PAGES = 4, 2000
MARKET = """
name: wide
source: {{kind: demo}}
calendar: crypto
instruments: [{instruments}]
timeframes: [{timeframes}]
history: 2d
indicators: {{keep: 90d}}
"""
# Appends a candle to some series again and again, and prints when each transaction began and ended.
WRITER = """
import sys, time
from pathlib import Path
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.venue import BEGIN, MINUTE, candles_of
market = parse_market(Path("markets/wide.yaml").read_text(), file="wide.yaml")
warehouse, batch = Warehouse("data/refresh.duckdb"), market.series[: int(sys.argv[2])]
first, rounds = int(sys.argv[1]), int(sys.argv[3])
for number in range(first, first + rounds):
    now = BEGIN + MINUTE * number
    arrivals = {series: candles_of(series, now, 1) for series in batch}
    began = time.time()
    warehouse.store_candles(market, arrivals, "demo", now)
    print(began, time.time(), flush=True)
    time.sleep(0.1)
"""


def measure(size: Size, folder: Path, refresh: Sequence[str] = REFRESH) -> Findings:
    """Every target of the API: processor time where a server's work is meant, seconds where somebody waits.

    `refresh` is the command whose seconds are taken beside clients.
    """
    size = replace(size, rounds=min(size.rounds, MOST_ROUNDS))
    served, stored = folder / "served", min(size.stored, 2 * ROWS)
    market = prepared(served, min(size.series, WITH_COLUMNS), [Timeframe.m1])
    fill(warehouse_of(served), market, stored)
    with api(served) as server:
        answers = [*_kept_answers(size, folder, server, market), _cold(size, served, server, market)]
        beside = [*_beside_a_writer(size, served, server, market), *_events(size, served, server)]
        held = [_longest_opening(server)]
    beside += _beside_refreshes(size, folder / "refreshed", refresh, held)
    beside.append(Comparison("longest opening by the API", [max(held)], note="opening, asking and closing"))
    return {
        "api: answers, beside Starlette, pandas and DuckDB": answers,
        "api: beside writers": beside,
        "api: process": _process(size, folder / "memory"),
    }


def prepared(folder: Path, series: int, timeframes: Sequence[Timeframe]) -> Market:
    """A folder with the settings and the YAML of a market, for programs that start there."""
    (folder / "markets").mkdir(parents=True)
    (folder / "home").mkdir()
    (folder / "data").mkdir()
    names = ", ".join(f"S{number:04d}/USD" for number in range(series))
    text = MARKET.format(instruments=names, timeframes=", ".join(timeframes))
    (folder / "markets" / "wide.yaml").write_text(text, encoding="utf-8")
    settings = "REFRESH_MARKETS=wide\nREFRESH_MARKETS_DIR=markets\nREFRESH_API_RATE=1000000\n"
    (folder / ".env").write_text(settings, encoding="utf-8")
    return parse_market(text, file="wide.yaml")


def warehouse_of(folder: Path) -> Warehouse:
    """The warehouse of a prepared folder."""
    return Warehouse(folder / "data" / "refresh.duckdb")


def _path(number: int, query: str = "") -> str:
    return f"/api/v1/data/S{number:04d}-USD/m1?limit={ROWS}{query}"


# ---- answers


def _kept_answers(size: Size, folder: Path, server: Server, market: Market) -> Iterator[Comparison]:
    """Answers that are in memory, beside bare servers of the same content."""
    narrow = server.get(_path(0, f"&layer=candles&columns={NARROW}"))
    wide = server.get(_path(0, "&layer=joined&format=columns"))
    requests = size.requests
    width = len(json.loads(wide)["columns"])
    cases = (
        (
            f"{ROWS} rows of 6 columns, kept",
            narrow,
            "object",
            f"&layer=candles&columns={NARROW}",
            requests,
            "orjson each time",
        ),
        (
            f"{ROWS} rows of all columns, kept",
            wide,
            "bytes",
            "&layer=joined&format=columns",
            # Megabytes each: 10,000 of them take a client minutes, and say no more than 1,000.
            max(requests // 10, 4),
            f"the same bytes, {width} columns",
        ),
        (
            f"{ROWS} rows as freqtrade's path serves them",
            narrow,
            "frame",
            f"&layer=candles&columns={NARROW}",
            max(requests // 20, 4),
            "its steps over pandas in FastAPI",
        ),
    )
    for what, content, kind, query, asked, note in cases:
        (folder / "content.json").write_bytes(content)
        path = "/pair_candles" if kind == "frame" else "/"
        with serving(folder, ["-c", BARE, kind, "PORT", str(folder / "content.json")], path) as bare:
            # Both are asked as often; only a data frame is a twentieth as fast.
            ours = requests if kind == "frame" else asked
            rounds = [(cost(server, _path(0, query), ours), cost(bare, path, asked)) for _ in range(size.rounds)]
        costs, floor = zip(*rounds, strict=True)
        yield Comparison(what, costs, floor, f"processor time a request, {CLIENTS} clients; bare: {note}")


def _cold(size: Size, folder: Path, server: Server, market: Market) -> Comparison:
    """An answer that is not kept: rows of all columns, each time of another series."""
    rounds = []
    for number in range(1, min(size.rounds, len(market.instruments) - 1) + 1):
        # The reader leaves the file alone for a tenth of a second after each opening.
        time.sleep(0.3)
        began = time.perf_counter()
        server.get(_path(number, "&layer=joined&format=columns"))
        ours = time.perf_counter() - began
        began = time.perf_counter()
        _bare_answer(folder / "data" / "refresh.duckdb", f"S{number:04d}/USD")
        rounds.append((ours, time.perf_counter() - began))
    ours, bare = zip(*rounds, strict=True)
    return Comparison(f"{ROWS} rows of all columns, cold", ours, bare, "bare: open, one query, close, orjson")


def _bare_answer(database: Path, instrument: str) -> bytes:
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute(
            "select e.*, i.* exclude (instrument, timeframe, open_time) from wide.enhanced_candles e left join "
            "wide.indicators i using (instrument, timeframe, open_time) where e.instrument = ? and timeframe = 'm1' "
            f"order by open_time desc limit {ROWS}",
            [instrument],
        ).fetchnumpy()
    listed = {
        name: np.ma.filled(values, 0) if values.dtype.kind != "O" else values.tolist() for name, values in rows.items()
    }
    return orjson.dumps(listed, option=orjson.OPT_SERIALIZE_NUMPY, default=str)


# ---- beside writers


@dataclass
class Written:
    """Transactions of a writer in a process of its own: when each began and ended, in seconds since 1970."""

    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of a transaction."""
        return median(end - begin for begin, end in self.spans)


def written(folder: Path, first: int, rounds: int) -> Written:
    """So many transactions, of one candle of some series each; `first` numbers the minutes."""
    command = [sys.executable, "-P", "-c", WRITER, str(first), str(WRITTEN), str(rounds)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return Written([(float(begin), float(end)) for begin, end in map(str.split, done.stdout.splitlines())])


def _beside_a_writer(size: Size, folder: Path, server: Server, market: Market) -> list[Comparison]:
    """A small transaction with and without requests beside it, and what the requests wait."""
    paths = [_path(number, "&layer=candles") for number in range(len(market.instruments))]
    alone, beside, halves, tails = [], [], [], []
    for number in range(size.rounds):
        first = 2 * number * size.writes
        alone.append(written(folder, first, size.writes).seconds)
        with Load(server.port, paths, rate=RATE) as load:
            beside.append(written(folder, first + size.writes, size.writes).seconds)
        halves.append(load.percentile(50))
        tails.append(load.percentile(99))
    many = f"{RATE} requests a second beside a writer"
    return [
        Comparison("a small transaction", beside, alone, f"with {RATE} requests a second; bare: with none"),
        Comparison(f"{many}, p50", halves),
        Comparison(f"{many}, p99", tails),
    ]


def _events(size: Size, folder: Path, server: Server) -> list[Comparison]:
    """From a commit to its event at one of many listeners: at the first, and at the last after the first."""
    with listening(server.port, LISTENERS) as heard:
        first = 2 * size.rounds * size.writes
        firsts, spreads = [], []
        for number in range(size.rounds):
            _wait_for_earlier(heard)
            heard.clear()
            [(_, committed)] = written(folder, first + number, 1).spans
            deadline = time.time() + 30
            while len(heard) < LISTENERS and time.time() < deadline:
                time.sleep(0.01)
            if len(heard) < LISTENERS:
                raise RuntimeError(f"{len(heard)} of {LISTENERS} listeners had the event after 30 s")
            firsts.append(min(heard) - committed)
            spreads.append(max(heard) - min(heard))
    return [
        Comparison("from a commit to its event", firsts, note=f"the first of {LISTENERS} listeners"),
        Comparison("the last listener after the first", spreads, note=f"{LISTENERS} listeners by SSE"),
    ]


def _wait_for_earlier(heard: Sequence[float]) -> None:
    """Return once a second has brought no event: those of earlier commits have come."""
    known = -1
    while len(heard) != known:
        known = len(heard)
        time.sleep(1)


@contextmanager
def listening(port: int, clients: int) -> Iterator[list[float]]:
    """When each of many SSE clients had its first event since the list was cleared, in seconds since 1970."""
    heard: list[float] = []
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        for _ in range(clients):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /api/v1/events?topics=candles HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
            while b"retry:" not in client.recv(65536):
                continue
            selector.register(client, selectors.EVENT_READ)
        ends = threading.Event()

        def listen() -> None:
            while not ends.is_set():
                for key, _ in selector.select(0.05):
                    assert isinstance(key.fileobj, socket.socket)
                    if b"event: candles" in key.fileobj.recv(1 << 20):
                        heard.append(time.time())

        thread = threading.Thread(target=listen)
        thread.start()
        yield heard
        ends.set()
        thread.join()


def _longest_opening(server: Server) -> float:
    return json.loads(server.get("/api/v1/metrics"))["reader"]["longest_hold_seconds"]


def _beside_refreshes(size: Size, folder: Path, refresh: Sequence[str], held: list[float]) -> Iterator[Comparison]:
    """Seconds of a refresh beside clients of what is in memory, and beside clients of what is not."""
    prepared(folder, REFRESHED, [Timeframe.m1])
    # The first one fetches the history; those that follow fetch what has closed since.
    _refreshed(folder, refresh)
    now = int(time.time())
    warm = [_path(number, "&layer=candles") for number in range(REFRESHED)]
    cold = [_path(number % REFRESHED, f"&layer=joined&until={1000 * (now - 60 * number)}") for number in range(PAGES)]
    alone, beside_warm, beside_cold, halves, tails = [], [], [], [], []
    with api(folder) as server:
        for number in range(size.rounds):
            alone.append(seconds(_refreshed, folder, refresh))
            with Load(server.port, warm, rate=RATE):
                beside_warm.append(seconds(_refreshed, folder, refresh))
            some = cold[number * PAGES // size.rounds : (number + 1) * PAGES // size.rounds]
            with Load(server.port, some, clients=COLD_CLIENTS) as load:
                beside_cold.append(seconds(_refreshed, folder, refresh))
            halves.append(load.percentile(50))
            tails.append(load.percentile(99))
        held.append(_longest_opening(server))
    many = f"{COLD_CLIENTS} clients of cold rows"
    yield Comparison(f"a refresh beside {RATE} requests a second", beside_warm, alone, "bare: without clients")
    yield Comparison(f"a refresh beside {many}", beside_cold, alone, "bare: without clients")
    yield Comparison(f"{many} beside a refresh, p50", halves, note="500 rows of all columns, each page new")
    yield Comparison(f"{many} beside a refresh, p99", tails)


def _refreshed(folder: Path, refresh: Sequence[str]) -> None:
    done = subprocess.run(refresh, check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a refresh ended with {done.returncode}: {done.stdout[-1000:]} {done.stderr[-1000:]}")


# ---- the process


def _process(size: Size, folder: Path) -> list[Comparison]:
    """Memory with many tails, and the seconds of a start."""
    timeframes = [Timeframe.m1, Timeframe.m5, Timeframe.m15, Timeframe.m30, Timeframe.H1]
    market = prepared(folder, size.series, timeframes)
    store = warehouse_of(folder)
    store.prepare(market)
    rows = min(size.stored, TAIL)
    for first in range(0, len(market.series), 500):
        batch = market.series[first : first + 500]
        store.store_candles(market, {series: candles_of(series, BEGIN, rows) for series in batch}, "demo", BEGIN)
    starts, sizes = [], []
    for _ in range(size.rounds):
        with api(folder) as server:
            starts.append(server.started_in)
            while len(json.loads(server.get("/api/v1/latest"))["data"]) < len(market.series):
                time.sleep(0.1)
            sizes.append(_settled(server))
    note = f"{len(market.series)} series, {rows} candles of each"
    return [
        Comparison("memory of the API", sizes, note=f"PSS once settled; {note}", unit="MB"),
        Comparison("from start to first answer", starts, note=note),
    ]


def _settled(server: Server) -> float:
    """The megabytes of a server once it has given back what its last reading took."""
    before = server.megabytes
    while True:
        time.sleep(1)
        now = server.megabytes
        if abs(now - before) < 1:
            return now
        before = now
