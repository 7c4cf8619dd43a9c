"""A live run, a venue that streams, the API and a listener to its events, each in its own process: `make bench-live`.

Prints the seconds from a close to readable rows and to the event at the listener, processor time a minute, memory, and
what was lost, stored twice or has another bit than computing the whole, and what reading it all again corrects. Minutes
may be shorter than the clock's: `--speed 6` makes them ten seconds. With `--trouble` connections are cut and silent, a
candle is corrected, and a backfill runs beside.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.market.candles import CANDLE_COLUMNS, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.pipeline.compute import compute
from refresh_pipeline.pipeline.fetch import refresh_candles
from refresh_pipeline.sources.registry import open_source, open_stream
from refresh_pipeline.streaming.live_run import Clock, LiveRun, Parts, Report
from refresh_pipeline.streaming.push import PushDoor
from refresh_pipeline.warehouse.arrays import arrays_of, registered, texts
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.stored_values import stored_values
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.benchmarks.servers import api
from refresh_pipeline_tests.fakes.binance_stream import FastClock, StreamingBinance

YAML = """
name: wide
source: {{kind: binance, base_url: "{url}"}}
calendar: crypto
instruments: [{instruments}]
timeframes: [m1]
history: 25h
live: true
"""
# Of the closes, how many come late (by seconds), and how many never.
LATE, LATE_SECONDS, MISSING = 0.015, (0.4, 2.0), 0.005
# Series whose every bit is compared with the whole.
COMPARED = 20
# Series that are fetched and computed; the history of the others is copied from theirs.
FETCHED = 50
# With trouble: minutes between two cuts, and between two minutes without a message; the minute in which a candle is
# corrected; series whose older history is fetched.
CUT_EVERY, STALLED_EVERY, CORRECTED_IN, BACKFILLED = 5, 6, 4, 10
# A close counts as readable, or heard, once this share of its series is.
SHARE = 0.95
EVENTS = "/api/v1/events?topics=candles&market=wide"


def symbols_of(count: int) -> list[str]:
    """The venue's symbols."""
    return [f"S{number:04d}USDT" for number in range(count)]


def serve(count: int, clock: FastClock, address: "multiprocessing.Queue[str]", trouble: "Event") -> None:
    """The venue's process: it ends with its parent."""
    random, speed, troubled = np.random.default_rng(3), clock.speed, 0
    with StreamingBinance(clock.now, speed, symbols_of(count)) as venue:
        address.put(venue.base_url)
        while True:
            troubled += trouble.is_set()
            if troubled == CORRECTED_IN:
                correct(venue, clock.now())
            if troubled % CUT_EVERY == 2:
                venue.cut()
            venue.faults.stalled = troubled % STALLED_EVERY == 3
            drawn = random.random(count)
            names = np.array(symbols_of(count))
            late = names[drawn < LATE]
            venue.faults.late = dict(zip(late.tolist(), random.uniform(*LATE_SECONDS, len(late)).tolist(), strict=True))
            venue.faults.missing = set(names[drawn > 1 - MISSING].tolist())
            time.sleep(60 / speed)


def correct(venue: StreamingBinance, now: datetime) -> None:
    """Change a candle that was streamed, which nobody is told."""
    symbol, opened = symbols_of(1)[0], (now - timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M")
    venue.correct(symbol, "1m", opened, close=venue.candle(symbol, "1m", opened)[2])


def backfill(market: Market, path: Path, now: datetime) -> None:
    """Fetch older candles of some series and compute all their rows anew, beside the live run."""
    warehouse, series = Warehouse(path), market.series[:BACKFILLED]
    source, since = open_source(market, path.parent / "limits"), now - timedelta(hours=30)
    refresh_candles(warehouse, market, source, series, now, gaps={}, since=since, until=since + timedelta(hours=6))
    for table in (Table.enhanced_candles, Table.indicators):
        compute(warehouse, market, table, series)


def revised(market: Market, path: Path, since: np.datetime64, now: datetime) -> int:
    """How many of the candles since an instant are corrected by a refresh that reads them again."""
    source, begin = open_source(market, path.parent / "limits"), since.astype(datetime).replace(tzinfo=UTC)
    attempts = refresh_candles(Warehouse(path), market, source, market.series, now, gaps={}, since=begin)
    return sum(attempt.rows_revised for attempt in attempts.values())


def store(market: Market, path: Path, now: datetime) -> None:
    """Fetch and compute the history."""
    warehouse = Warehouse(path)
    warehouse.prepare(market)
    series = market.series[:FETCHED]
    refresh_candles(warehouse, market, open_source(market, path.parent / "limits"), series, now, gaps={})
    for table in (Table.enhanced_candles, Table.indicators):
        compute(warehouse, market, table, series)
    copy_series(path, len(market.series))


def copy_series(path: Path, count: int) -> None:
    """Give the stored series' history to further ones, until there are so many: computing all takes minutes."""
    names = [f"{symbol[:5]}/USDT" for symbol in symbols_of(count)]
    copies = {"copy": texts(names[FETCHED:]), "original": texts(names[n % FETCHED] for n in range(FETCHED, count))}
    with Warehouse(path).get_connection("wide") as connection, registered(connection, "copies", copies):
        tables = connection.execute(
            "select table_name from duckdb_columns() join duckdb_tables() using (schema_name, "
            "table_name) where schema_name = 'wide' and column_name = 'instrument'"
        ).fetchall()
        for (table,) in tables:
            drawn = ", nextval('main.change_version') as version" if table == Table.versions.value else ""
            connection.execute(
                f"insert into wide.{table} by name select t.* replace (c.copy as instrument{drawn}) "
                f"from wide.{table} t join copies c on t.instrument = c.original"
            )


def listen(port: int, clock: FastClock, door: Connection) -> None:
    """The listener's process: it hears pushed candles until it is asked for the seconds after each close, and ends."""
    heard: dict[np.datetime64, list[float]] = {}
    machine = Clock(clock.now, clock.speed)

    def follow() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", EVENTS)
        answer = connection.getresponse()
        door.send(answer.status)
        for line in answer:
            message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            if message.get("live"):
                # News that waited may be of commits as well, whose computed layers have no row.
                last = [one["last"] for one in message["series"] if one.get("last")]
                opens = [np.datetime64(one["open_time"].rstrip("Z"), "us") for one in last]
                for close in (time + np.timedelta64(1, "m") for time in opens):
                    heard.setdefault(close, []).append(-machine.seconds_until(close))

    threading.Thread(target=follow, daemon=True).start()
    door.recv()
    door.send(heard)
    # At once: the thread still reads.
    os._exit(0)


def measured(
    market: Market, path: Path, clock: FastClock, minutes: int, door: PushDoor
) -> tuple[list[Report], float, float]:
    """The reports of a live run, its processor time a minute once it is loaded, and its memory in MB.

    Prints where the time of its waves went.
    """
    reports: list[Report] = []
    began: list[tuple[float, datetime]] = []

    def heard(report: Report) -> None:
        if not began:
            began.append((time.process_time(), clock.now()))
        reports.append(report)

    parts = Parts(
        Warehouse(path),
        open_source(market, path.parent / "limits"),
        open_stream(market, path.parent / "limits"),
        Clock(clock.now, clock.speed),
        report=heard,
        pushed=door.push,
    )
    run = LiveRun(market, parts)
    thread = threading.Thread(target=run.run)
    thread.start()
    while not began:
        time.sleep(0.1)
    time.sleep(minutes * 60 / clock.speed)
    passed = (clock.now() - began[0][1]) / timedelta(minutes=1)
    seconds = (time.process_time() - began[0][0]) / passed
    run.end()
    thread.join()
    spent = {name: f"{np.median(part) * 1000:.0f}, at most {max(part) * 1000:.0f}" for name, part in run.spent.items()}
    print(f"ms of a wave in the middle, of {len(run.spent['write'])}: {spent}")
    # Earlier closes were caught up with.
    live = [report for report in reports if report.close > instant(began[0][1])]
    return live, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def faults(market: Market, path: Path) -> tuple[int, int, int]:
    """Candles that are missing between the first and the last, stored twice, and values with another bit."""
    lost = twice = wrong = 0
    with Warehouse(path).reader() as connection:
        for number, series in enumerate(market.series):
            where = f"from wide.{{}} where instrument = '{series.instrument}' order by open_time"
            raw = arrays_of(connection, f"select open_time, {', '.join(CANDLE_COLUMNS)} " + where.format("raw_candles"))
            times = raw.pop("open_time").astype("datetime64[us]")
            steps = np.diff(times) // np.timedelta64(1, "m")
            lost, twice = lost + int((steps - 1).clip(0).sum()), twice + int((steps == 0).sum())
            if number < COMPARED:
                bars = Bars(times, raw, np.array([0, len(times)]))
                for table, computation in computations(market).items():
                    stored = arrays_of(connection, "select * " + where.format(table.value))
                    whole = stored_values(table, computation.compute(bars))
                    wrong += sum(_different(stored[name], of) for name, of in whole.items())
    return lost, twice, wrong


def _different(stored: np.ndarray, expected: np.ndarray) -> int:
    if len(stored) != len(expected):
        return max(len(stored), len(expected))
    if expected.dtype == object:
        return int((stored != expected).sum())
    values = stored.astype(np.float64)
    return int((~((values == expected) | (np.isnan(values) & np.isnan(expected)))).sum())


def share_of(seconds: Sequence[float], share: float) -> float | None:
    """The seconds within which this share of them lies; None of none."""
    ordered = sorted(seconds)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


def spread(seconds: Sequence[float | None]) -> str:
    """Median, 95th percentile and worst of some seconds, without those that are not known.

    >>> spread([0.4, 0.6, None, 0.5])
    'median 0.50 s, p95 0.59 s, worst 0.60 s of 3'
    """
    known = [value for value in seconds if value is not None]
    if not known:
        return "none"
    middle, p95 = np.percentile(known, [50, 95])
    return f"median {middle:.2f} s, p95 {p95:.2f} s, worst {max(known):.2f} s of {len(known)}"


def joined(reports: Sequence[Report]) -> Iterator[Report]:
    """One report a close: what came after a bar's report is told in another one."""
    for close in sorted({report.close for report in reports}):
        whole = Report(close)
        for report in reports:
            if report.close == close:
                whole.series += report.series
                whole.readable += report.readable
                whole.late += report.late
                whole.filled += report.filled
                # The last of them knows what has still not come.
                whole.missing = report.missing
        yield whole


def show(reports: Sequence[Report], heard: Mapping[np.datetime64, Sequence[float]], speed: float) -> None:
    """Print how long after their closes candles were readable, and heard of."""
    reports = list(joined(reports))
    counted = {name: sum(len(getattr(report, name)) for report in reports) for name in ("late", "filled", "missing")}
    print(f"minutes: {sum(bool(report.series) for report in reports)} of {60 / speed:g} s; {counted}")
    print(f"close to readable, 95 % of the series: {spread([report.lateness(SHARE) for report in reports])}")
    print(f"close to readable, all series: {spread([report.lateness(1.0) for report in reports])}")
    pushed = [share_of(heard.get(report.close, []), SHARE) for report in reports]
    print(f"close to the event at a listener, 95 % of the series: {spread(pushed)}")


def prepared(folder: Path, url: str, count: int) -> Market:
    """A folder with the settings and the YAML of the market, for the API."""
    for name in ("markets", "home", "data"):
        (folder / name).mkdir()
    instruments = ", ".join(f"{symbol[:5]}/USDT" for symbol in symbols_of(count))
    text = YAML.format(url=url, instruments=instruments)
    (folder / "markets" / "wide.yaml").write_text(text, encoding="utf-8")
    (folder / ".env").write_text("REFRESH_MARKETS=wide\nREFRESH_MARKETS_DIR=markets\n", encoding="utf-8")
    return parse_market(text, "wide.yaml")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--minutes", type=int, default=5)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--trouble", action="store_true", help="cuts, stalls, a correction and a backfill")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), options.series, options.minutes, options.speed, trouble=options.trouble)


def _run(folder: Path, count: int, minutes: int, speed: float, *, trouble: bool) -> None:
    clock = FastClock(datetime.now(UTC).replace(second=0, microsecond=0), speed)
    context = multiprocessing.get_context("spawn")
    address: multiprocessing.Queue[str] = context.Queue()
    begins = context.Event()
    venue = context.Process(target=serve, args=(count, clock, address, begins), daemon=True)
    venue.start()
    market = prepared(folder, address.get(), count)
    path = folder / "data" / "refresh.duckdb"
    # In a process of its own: its memory is not the live run's.
    refresh = context.Process(target=store, args=(market, path, clock.now()))
    refresh.start()
    refresh.join()
    print(f"{count} series are stored", flush=True)
    with api(folder) as server, PushDoor(folder / "data" / "live", market.name) as door:
        ours, its = context.Pipe()
        listener = context.Process(target=listen, args=(server.port, clock, its), daemon=True)
        listener.start()
        if (status := ours.recv()) != 200:
            raise RuntimeError(f"{EVENTS}: expected 200, received {status}")
        if trouble:
            begins.set()
            context.Process(target=backfill, args=(market, path, clock.now()), daemon=True).start()
        reports, seconds, megabytes = measured(market, path, clock, minutes, door)
        ours.send("end")
        heard = ours.recv()
    show(reports, heard, speed)
    print(f"processor time a minute: {seconds:.2f} s; memory at its most: {megabytes:.0f} MB")
    lost, twice, wrong = faults(market, path)
    print(f"lost {lost}, stored twice {twice}, values with another bit {wrong} (of {min(COMPARED, count)} series)")
    wanted = "; one was corrected" if trouble else ""
    since = min(report.close for report in reports) - np.timedelta64(1, "m")
    print(f"streamed candles that reading them again corrects: {revised(market, path, since, clock.now())}{wanted}")
    venue.terminate()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
