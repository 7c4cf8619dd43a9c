"""The live run against a venue that streams with faults, on a fast clock: every candle once, every bit right."""

import ctypes
import logging
import multiprocessing
import random
import shutil
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.live_job import run_until
from refresh_pipeline.pipeline.compute import compute
from refresh_pipeline.pipeline.fetch import refresh_candles
from refresh_pipeline.sources.registry import open_source, open_stream
from refresh_pipeline.streaming import live_run
from refresh_pipeline.streaming.live_run import Clock, LiveRun, Parts
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.connection import WarehouseBusy
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.stored_values import stored_values
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.fakes.binance_stream import FastClock, StreamingBinance
from refresh_pipeline_tests.fakes.http_server import Fault
from refresh_pipeline_tests.streaming.live_process import stream_for_ever

BEGIN = datetime(2024, 6, 3, 12, 0, 45, tzinfo=UTC)
# A minute lasts a second.
SPEED = 60.0
BTC, ETH, SOL = (Series(name, Timeframe.m1) for name in ("BTC/USDT", "ETH/USDT", "SOL/USDT"))
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
YAML = """
name: crypto
source: {{kind: binance, base_url: "{url}"}}
calendar: crypto
instruments: [BTC/USDT, ETH/USDT, SOL/USDT]
timeframes: [m1]
history: 18h
indicators: {{compute: [sma_20, rsi_14, vwap, adosc, {{ema: [8]}}]}}
live: {{rest_after: 300ms}}
"""


def market_at(url: str) -> Market:
    return parse_market(YAML.format(url=url), "crypto.yaml")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A file with 18 hours of candles of each series, computed: more than a series needs to go on by itself."""
    path = tmp_path_factory.mktemp("live") / "stored.duckdb"
    with StreamingBinance(lambda: BEGIN, symbols=SYMBOLS) as venue:
        market, warehouse = market_at(venue.base_url), Warehouse(path)
        source = open_source(market, path.parent / "limits")
        warehouse.prepare(market)
        refresh_candles(warehouse, market, source, market.series, BEGIN, gaps={})
        for table in (Table.enhanced_candles, Table.indicators):
            compute(warehouse, market, table, market.series)
    return path


class Desk:
    """A venue, a warehouse and a live run on a fast clock."""

    def __init__(self, folder, stored, yaml=lambda text: text, begin=BEGIN, speed=SPEED):
        self.path = folder / "live.duckdb"
        shutil.copy(stored, self.path)
        self.clock = FastClock(begin, speed)
        self.venue = StreamingBinance(self.clock.now, speed, SYMBOLS)
        self.folder, self.yaml, self.reports = folder, yaml, []
        self._seen, self._newest = None, {}

    def __enter__(self):
        self.venue.__enter__()
        self.market = parse_market(self.yaml(YAML.format(url=self.venue.base_url)), "crypto.yaml")
        self.warehouse = Warehouse(self.path, patience=5.0)
        return self

    def __exit__(self, *error):
        self.venue.__exit__(*error)

    def live_run(self, pushed=lambda waves: None):
        limits = self.folder / "limits"
        parts = Parts(
            self.warehouse,
            open_source(self.market, limits),
            open_stream(self.market, limits),
            Clock(self.clock.now, self.clock.speed),
            run_id="run",
            report=self.reports.append,
            pushed=pushed,
        )
        return LiveRun(self.market, parts)

    @contextmanager
    def running(self, pushed=lambda waves: None, until=None, raises=()):
        """A live run in a thread; ends with the block, by itself after `until`, or with an error of `raises`."""
        run, errors = self.live_run(pushed), []

        def work():
            try:
                run.run(until)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield run
        finally:
            run.end()
            thread.join(20)
        assert tuple(type(error) for error in errors) == raises, errors
        assert not thread.is_alive()

    def newest(self):
        """The open time of each series' newest candle. Every look holds the file: none where nothing was written."""
        seen = [path.stat().st_mtime_ns for path in sorted(self.folder.glob("live.duckdb*"))]
        if seen != self._seen:
            self._seen, self._newest = seen, self._read_newest()
        return self._newest

    def _read_newest(self):
        with Warehouse(self.path).reader() as connection:
            rows = connection.execute("select instrument, last_open_time from crypto.series").fetchall()
        return {name: last.replace(tzinfo=UTC) for name, last in rows}

    def outcome(self, series):
        """What became of fetching a series last, and why."""
        with Warehouse(self.path).reader() as connection:
            [found] = connection.execute(
                "select outcome, reason from crypto.outcomes where asset = 'raw_candles' and instrument = ?",
                [series.instrument],
            ).fetchall() or [(None, None)]
        return found

    def minute(self):
        """How many minutes have passed since the beginning."""
        return int((self.clock.now() - BEGIN.replace(second=0)) / timedelta(minutes=1))

    def wait_for(self, minutes, seconds=30.0):
        """Wait until the candles of so many minutes after the beginning are readable by another connection."""
        wanted = BEGIN.replace(second=0) + timedelta(minutes=minutes - 1)
        self.wait_until(lambda: min(self.newest().values()) >= wanted, seconds)

    def wait_until(self, holds, seconds=30.0):
        ends = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < ends, (self.newest(), self.reports)
            time.sleep(0.05)

    def assert_whole(self):
        """Every candle is there once, as the venue has it, and every computed bit is that of the whole history."""
        with Warehouse(self.path).reader() as connection:
            for series in self.market.series:
                self._assert_whole(connection, series)

    def _assert_whole(self, connection, series):
        names = ", ".join(CANDLE_COLUMNS)
        where = f"from crypto.{{}} where instrument = '{series.instrument}' order by open_time"
        raw = arrays_of(connection, f"select open_time, {names} " + where.format("raw_candles"))
        times = raw.pop("open_time").astype("datetime64[us]")
        assert (np.diff(times) == np.timedelta64(1, "m")).all()
        symbol = series.instrument.replace("/", "")
        served = self.venue._rows(symbol, "1m", times.astype("datetime64[ms]").astype(np.int64))
        assert [float(row[4]) for row in served] == raw["close"].tolist()
        [(count, last)] = connection.execute(
            f"select candle_count, last_open_time from crypto.series where instrument = '{series.instrument}'"
        ).fetchall()
        assert (count, np.datetime64(last)) == (len(times), times[-1])
        bars = Bars(times, raw, np.array([0, len(times)]))
        for table, computation in computations(self.market).items():
            stored = arrays_of(connection, "select * " + where.format(table.value))
            assert len(stored["open_time"]) == len(times), table
            for name, expected in stored_values(table, computation.compute(bars)).items():
                values = stored[name]
                if expected.dtype == object:
                    assert (values == expected).all(), (table, name)
                else:
                    found = np.flatnonzero(
                        ~((values == expected) | (np.isnan(values.astype(float)) & np.isnan(expected)))
                    )
                    assert not len(found), (table, name, found, values[found], expected[found])
        queued = connection.execute("select asset from crypto.recompute_queue where asset <> 'exports'").fetchall()
        assert not queued


@pytest.fixture
def desk(tmp_path, stored):
    with Desk(tmp_path, stored) as desk:
        yield desk


def test_late_missing_repeated_and_forming_candles(desk, caplog):
    faults = desk.venue.faults
    faults.late["BTCUSDT"], faults.missing, faults.clock_ahead = 0.15, {"ETHUSDT"}, 300.0
    faults.twice, faults.forming, faults.out_of_order = {"SOLUSDT"}, {"SOLUSDT", "BTCUSDT"}, {"SOLUSDT"}
    with desk.running() as run:
        desk.wait_for(minutes=4)
        desk.wait_until(lambda: any(ETH in report.filled for report in desk.reports))
        desk.wait_until(lambda: any(SOL in report.series and SOL not in report.filled for report in desk.reports))
        # The venue's clock is off, which is told and changes nothing.
        desk.wait_until(lambda: run.offset > 200)
        assert "crypto: the venue's clock is" in caplog.text
    desk.assert_whole()


def test_a_message_that_comes_late_is_no_clock_that_is_slow(desk, caplog):
    run = desk.live_run()
    now = desk.clock.now().timestamp()
    for sent_at in (now - 100, now, now - 50):
        run.told_time(sent_at)
    run.compare_clocks()
    assert abs(run.offset) < 40
    assert "the venue's clock is" not in caplog.text
    run.told_time(now - 100)
    run.compare_clocks()
    assert "crypto: the venue's clock is -1" in caplog.text


def test_cut_shut_down_silent_and_refused_streams_lose_nothing(desk):
    with desk.running():
        desk.wait_for(minutes=1)
        for number, fault in enumerate((desk.venue.cut, desk.venue.end_day, desk.venue.announce_shutdown), start=1):
            opened = desk.venue.connections
            fault()
            desk.wait_until(lambda opened=opened: desk.venue.connections >= opened + 2)
            desk.wait_for(minutes=desk.minute() + number)
        opened, desk.venue.faults.stalled = desk.venue.connections, True
        desk.wait_until(lambda: desk.venue.connections >= opened + 2)
        desk.venue.faults.refused = True
        desk.venue.cut()
        desk.wait_for(minutes=desk.minute() + 2)
    desk.assert_whole()
    assert sum(report.reconnects for report in desk.reports) >= 8


def test_what_others_write_wins_and_is_read_anew(desk):
    series, written = [BTC], []

    def write(waves):
        """Another run corrects a candle while the live run is about to write."""
        if written:
            return
        candle = desk.venue.candle("BTCUSDT", "1m", "2024-06-03T11:50")
        desk.venue.correct("BTCUSDT", "1m", "2024-06-03T11:50", close=candle[2])
        source, now = open_source(desk.market, desk.folder / "other"), desk.clock.now()
        since = now - timedelta(minutes=30)
        attempts = refresh_candles(desk.warehouse, desk.market, source, series, now, gaps={}, since=since)
        written.append(attempts[series[0]].rows_revised)
        for table in (Table.enhanced_candles, Table.indicators):
            compute(desk.warehouse, desk.market, table, series)

    with desk.running(pushed=write):
        desk.wait_for(minutes=1)
        desk.wait_until(lambda: any(series[0] in report.reloaded for report in desk.reports))
        desk.wait_for(minutes=desk.minute() + 2)
    assert written == [1]
    desk.assert_whole()


def test_a_held_file_delays_waves_and_the_next_run_goes_on(desk):
    with desk.running():
        desk.wait_for(minutes=1)
        with Warehouse(desk.path).reader():
            time.sleep(1.5)
    with desk.running():
        desk.wait_for(minutes=desk.minute() + 2)
    desk.assert_whole()


def test_pushes_go_on_while_the_file_is_held_and_after_too_long_the_run_fails(desk, monkeypatch, caplog):
    desk.warehouse, pushed = Warehouse(desk.path, patience=0.2), []
    caplog.set_level(logging.INFO, "refresh_pipeline")

    def waiting(level):
        return [each for each in caplog.records if "wait in memory" in each.message and each.levelno == level]

    with desk.running(pushed=pushed.extend, raises=(WarehouseBusy,)) as run:
        desk.wait_for(minutes=1)
        with Warehouse(desk.path).reader():
            told = len(pushed)
            desk.wait_until(lambda: len({time for wave in pushed[told:] for time in wave.open_time.tolist()}) >= 2)
            assert run.is_going
            # A short wait is no reason to warn, a minute is.
            desk.wait_until(lambda: waiting(logging.INFO))
            assert not waiting(logging.WARNING)
            monkeypatch.setattr(live_run, "WARNS_AFTER", 0.0)
            desk.wait_until(lambda: waiting(logging.WARNING))
            monkeypatch.setattr(live_run, "WAITS_AT_MOST", 0.5)
            desk.wait_until(lambda: not run.is_going)
    with desk.running():
        desk.wait_for(minutes=desk.minute() + 1)
    desk.assert_whole()


def test_a_run_slower_than_the_minute_writes_several_bars_of_a_series_at_once(desk):
    slow = iter([2.2])

    def lag(waves):
        time.sleep(next(slow, 0.0))

    with desk.running(pushed=lag):
        desk.wait_for(minutes=desk.minute() + 3)
    desk.assert_whole()
    with Warehouse(desk.path).reader() as connection:
        [(together,)] = connection.execute(
            "select max(bars) from (select count(*) as bars from crypto.raw_candles where open_time >= ? "
            "group by instrument, fetched_at)",
            [BEGIN.replace(tzinfo=None, second=0)],
        ).fetchall()
    assert together >= 2


def test_a_connection_asks_rest_for_the_series_that_lack_candles_and_for_no_other(tmp_path, stored, monkeypatch):
    monkeypatch.setattr(live_run, "BETWEEN_WAVES", 0.0)
    # The time almost stands still: no bar closes meanwhile.
    with Desk(tmp_path, stored, begin=BEGIN + timedelta(minutes=10), speed=0.001) as desk:
        source = open_source(desk.market, tmp_path / "other")
        refresh_candles(desk.warehouse, desk.market, source, [BTC], desk.clock.now(), gaps={})
        for table in (Table.enhanced_candles, Table.indicators):
            compute(desk.warehouse, desk.market, table, [BTC])
        desk.venue.asked.clear()
        with desk.running():
            desk.wait_for(minutes=10)
            opened = desk.venue.connections
            desk.venue.cut()
            # Once more: the first of them has told of itself by then.
            desk.wait_until(lambda: desk.venue.connections >= opened + 2)
            desk.venue.cut()
            desk.wait_until(lambda: desk.venue.connections >= opened + 4)
        assert sorted(symbol for symbol, _ in desk.venue.pages) == ["ETHUSDT", "SOLUSDT"]
        desk.assert_whole()


def test_what_neither_the_stream_nor_rest_has_is_on_record_and_catches_up(desk):
    desk.venue.faults.missing = {"ETHUSDT"}
    with desk.running():
        desk.wait_for(minutes=1)
        desk.venue.fail(
            Fault(400, {"code": -1121, "msg": "Invalid symbol."}), times=10_000, path="klines", symbol="ETHUSDT"
        )
        desk.wait_until(lambda: "Invalid symbol" in str(desk.outcome(ETH)))
        before = desk.newest()
        desk.wait_until(lambda: desk.newest()["BTC/USDT"] > before["BTC/USDT"])
        assert desk.newest()["ETH/USDT"] == before["ETH/USDT"]
        assert any(ETH in report.missing for report in desk.reports)
        desk.venue.heal()
        desk.wait_for(minutes=desk.minute() + 1)
        # Several bars of one series came at once: they were computed one after another.
        assert desk.outcome(ETH)[0] == "updated"
    desk.assert_whole()


def test_a_candle_that_contradicts_itself_is_set_aside(desk):
    row = desk.venue.candle("ETHUSDT", "1m", "2024-06-03T12:01")
    desk.venue.replace("ETHUSDT", "1m", "2024-06-03T12:01", [*row[:2], "1", *row[3:]])
    with desk.running():
        desk.wait_for(minutes=4)
    with Warehouse(desk.path).reader() as connection:
        [(reason,)] = connection.execute("select distinct reason from crypto.rejected_candles").fetchall()
    assert reason == "high is below low"


def test_the_next_run_takes_over_without_a_lost_or_repeated_candle(desk):
    pushed = []

    def note(waves):
        pushed.extend(
            (one, int(at)) for wave in waves for one, at in zip(wave.series, wave.open_time.astype(int), strict=True)
        )

    ends = desk.clock.now() + timedelta(minutes=2)
    with desk.running(note, until=ends) as first:
        desk.wait_for(minutes=2)
        desk.wait_until(lambda: not first.is_going)
    gone = desk.minute()
    with desk.running(note):
        desk.wait_for(minutes=gone + 2)
    desk.assert_whole()
    assert len(pushed) == len(set(pushed))
    with Warehouse(desk.path).reader() as connection:
        [(stored,)] = connection.execute(
            "select count(*) from crypto.raw_candles where open_time >= ?", [BEGIN.replace(tzinfo=None, second=0)]
        ).fetchall()
    assert len(pushed) == stored
    # The first run ended after the wave that its time was over with; the second one told of what closed meanwhile.
    assert all(report.lateness(1.0) is not None for report in desk.reports if report.series)


def test_terminate_interrupts_the_run_after_its_present_wave(desk):
    run, interrupted = desk.live_run(), []

    def step():
        try:
            run_until(run, BEGIN + timedelta(days=1))
        except KeyboardInterrupt:
            interrupted.append(run.is_going)

    thread = threading.Thread(target=step)
    thread.start()
    desk.wait_for(minutes=2)
    # As Dagster interrupts a step, which waits for the run.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt))
    thread.join(20)
    assert interrupted == [False]
    desk.assert_whole()


def test_killed_at_any_moment_a_run_loses_nothing(desk):
    processes, chance = multiprocessing.get_context("forkserver"), random.Random(5)
    processes.set_forkserver_preload(["refresh_pipeline_tests.streaming.live_process"])
    yaml = YAML.format(url=desk.venue.base_url)
    for _ in range(3):
        seen = desk.minute()
        process = processes.Process(target=stream_for_ever, args=(desk.path, yaml, desk.clock), daemon=True)
        process.start()
        desk.wait_for(minutes=seen + 1, seconds=120.0)
        # Somewhere in the waves that follow: while one is collected, computed, written or told.
        time.sleep(chance.uniform(0.0, 1.5))
        process.kill()
        process.join()
        assert process.exitcode == -9
    with desk.running():
        desk.wait_for(minutes=desk.minute() + 1)
    desk.assert_whole()
