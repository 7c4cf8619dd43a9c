"""Candles of an exchange's WebSocket by way of ccxt's own client: closed once a later one has come, never before."""

import importlib.util
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, instant
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.fetch import refresh_candles
from refresh_pipeline.sources.ccxt_exchange import CcxtSource
from refresh_pipeline.sources.ccxt_stream import CcxtStream, Successors, as_rows, connections, read_row
from refresh_pipeline.sources.registry import open_stream
from refresh_pipeline.streaming.live_run import Clock, LiveRun, Parts
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.fakes.binance_stream import FastClock
from refresh_pipeline_tests.fakes.kraken import row
from refresh_pipeline_tests.fakes.kraken_stream import PAIR_OF, StreamingKraken
from refresh_pipeline_tests.sources.listening import Heard, listening

if importlib.util.find_spec("ccxt") is None:
    pytest.skip("the extra ccxt is not installed", allow_module_level=True)

BEGIN = datetime(2024, 6, 3, 12, 0, 20, tzinfo=UTC)
# A minute lasts a second.
SPEED = 60.0
BTC, ETH, HOURS = Series("BTC/USD", Timeframe.m1), Series("ETH/USD", Timeframe.m1), Series("BTC/USD", Timeframe.m5)
YAML = """
name: kraken
source: {{kind: ccxt, exchange: {exchange}, base_url: "{url}", rate: {{requests: 1000, seconds: 1}}}}
calendar: crypto
instruments: [BTC/USD, ETH/USD, DOGE/MARS]
timeframes: [m1, m5]
history: 30m
indicators: {{compute: [sma_20]}}
live: {{streams: 1, rest_after: 500ms}}
"""


def market_at(url, exchange="kraken"):
    return parse_market(YAML.format(url=url, exchange=exchange), "kraken.yaml")


def true_values(series, open_time):
    """What the exchange's REST says of a candle: open, high, low, close, volume."""
    values = row(PAIR_OF[series.instrument], int(open_time.astype("datetime64[s]").astype(int)))
    return tuple(float(value) for value in [*values[1:5], values[6]])


def times(heard, series):
    return [candle.open_time for candle in heard.of(series)]


class Desk:
    """A venue and a stream that listens to it in a thread."""

    def __init__(self, venue, folder):
        self.venue, self.folder, self.heard = venue, folder, Heard()
        self.stream = CcxtStream(market_at(venue.base_url), folder, clock=lambda: venue.now)

    def listening(self, *series, silence=30.0):
        return listening(self.stream, series, self.heard, silence)


@pytest.fixture
def desk(tmp_path):
    with StreamingKraken(FastClock(BEGIN, SPEED).now, SPEED) as venue:
        yield Desk(venue, tmp_path)


def test_a_candle_is_closed_once_a_later_one_has_come_and_never_while_it_forms(desk):
    desk.venue.faults.twice, desk.venue.faults.out_of_order = {"BTC/USD"}, {"BTC/USD"}
    desk.venue.faults.late, desk.venue.faults.missing = {"ETH/USD"}, {"DOGE/MARS"}
    with desk.listening(BTC, ETH, HOURS, Series("DOGE/MARS", Timeframe.m1)) as heard:
        desk.heard.wait_until(lambda: min(len(times(heard, each)) for each in (BTC, ETH)) >= 2)
    for candle in heard.candles:
        assert candle.values == true_values(candle.series, candle.open_time)
        assert candle.open_time + np.timedelta64(candle.series.timeframe.minutes, "m") <= instant(desk.venue.now)
    for series in (BTC, ETH):
        assert set(np.diff(times(heard, series)).astype("timedelta64[m]").astype(int)) == {1}
    # A connection for each timeframe; the pair that the exchange does not have costs its own series alone.
    assert desk.venue.connections == 2
    assert sorted(set(desk.venue.subscribed)) == [("BTC/USD", 1), ("BTC/USD", 5), ("ETH/USD", 1)]
    assert (desk.stream.kind, heard.reasons) == ("ccxt:kraken", [])
    assert [path for path in (each.path for each in desk.venue.asked) if "AssetPairs" in path] == [
        "/0/public/AssetPairs"
    ]


def test_after_each_end_of_a_connection_the_proof_begins_anew(desk):
    with desk.listening(BTC, silence=1.2) as heard:
        desk.heard.wait_until(lambda: heard.candles)
        for number, fault in enumerate((desk.venue.cut, desk.venue.shut_down), start=1):
            fault()
            desk.heard.wait_until(lambda number=number: len(heard.opens) == number + 1)
        desk.venue.faults.refused = True
        desk.venue.cut()
        desk.heard.wait_until(lambda: len(heard.reasons) >= 4)
        desk.venue.faults.refused, desk.venue.faults.stalled = False, True
        desk.heard.wait_until(lambda: any("no candle within 1.2 s" in reason for reason in heard.reasons))
        desk.venue.faults.stalled = False
        told = len(heard.candles)
        desk.heard.wait_until(lambda: len(heard.candles) >= told + 1)
    assert len(heard.opens) >= 4
    assert all("TransientError" in reason or "no candle" in reason for reason in heard.reasons)
    # Whatever was interrupted is left to REST: a candle whose end was not heard is not told.
    assert all(candle.values == true_values(BTC, candle.open_time) for candle in heard.candles)
    assert len(set(times(heard, BTC))) == len(heard.candles)


def test_a_live_run_stores_what_was_proved_and_a_refresh_corrects_what_was_torn(desk, tmp_path):
    warehouse = Warehouse(tmp_path / "live.duckdb", patience=5.0)
    market = parse_market(YAML.format(url=desk.venue.base_url, exchange="kraken").replace(", DOGE/MARS", ""), "k.yaml")
    source, stream = CcxtSource(market, tmp_path), open_stream(market, tmp_path)
    # The last message of each of its minutes is lost: the next candle proves a close with other numbers.
    desk.venue.faults.torn = {"ETH/USD"}
    reports = []
    run = LiveRun(market, Parts(warehouse, source, stream, Clock(lambda: desk.venue.now, SPEED), report=reports.append))
    thread = threading.Thread(target=run.run)
    thread.start()
    try:
        desk.heard.wait_until(lambda: any(set(report.series) - set(report.filled) >= {BTC, ETH} for report in reports))
    finally:
        run.end()
        thread.join(20)
    wrong = differing(warehouse)
    assert wrong
    assert {series.instrument for series, _ in wrong} == {"ETH/USD"}
    now = desk.venue.now
    since = now - timedelta(minutes=30)
    attempts = refresh_candles(warehouse, market, source, market.series, now, gaps={}, since=since)
    assert sum(attempt.rows_revised for attempt in attempts.values()) == len(wrong)
    assert differing(warehouse) == []


def differing(warehouse):
    """The stored candles that are not what REST says."""
    with warehouse.reader() as connection:
        names = ", ".join(CANDLE_COLUMNS)
        rows = connection.execute(
            f"select instrument, timeframe, open_time, source, {names} from kraken.raw_candles order by all"
        ).fetchall()
    assert {source for _, _, _, source, *_ in rows} == {"ccxt:kraken"}
    stored = [(Series(name, Timeframe(frame)), np.datetime64(at), values) for name, frame, at, _, *values in rows]
    return [(series, at) for series, at, values in stored if tuple(values) != true_values(series, at)]


def test_only_a_later_candle_of_the_same_connection_proves_a_close():
    at = [np.datetime64(f"2024-06-03T12:{minute:02}", "us") for minute in range(6)]
    seen = Successors()
    # A snapshot proves nothing, however many candles it has; its newest one counts only when it is told of again.
    assert seen.closed([(at[0], (1.0,)), (at[1], (1.0,))]) == []
    assert seen.closed([(at[2], (2.0,))]) == []
    # A late message of an older candle changes nothing; the newest message of a candle is its value.
    assert seen.closed([(at[1], (9.0,)), (at[2], (2.5,))]) == []
    assert seen.closed([(at[3], (3.0,)), (at[2], (2.7,))]) == [(at[2], (2.7,))]
    # Two at once, and a bar that never came.
    assert seen.closed([(at[4], (4.0,)), (at[5], (5.0,))]) == [(at[3], (3.0,)), (at[4], (4.0,))]
    assert seen.closed([]) == []
    again = Successors()
    assert again.closed([(at[1], (1.0,))]) == []
    assert again.closed([(at[1], (1.5,))]) == []
    assert again.closed([(at[2], (2.0,))]) == [(at[1], (1.5,))]


def test_candles_of_the_future_and_off_the_grid_prove_nothing(desk):
    base = int(datetime(2024, 6, 3, 12, 0, tzinfo=UTC).timestamp()) * 1000
    rows = [[base + step, 1, 2, 1, 1.5, 3] for step in (0, 1_000, 3_600_000, 60_000_000)]
    [(opens, _)] = desk.stream.believed(BTC, [*rows, [base, None, 2, 1, 1.5, 3], ["soon"]])
    assert opens == instant("2024-06-03T12:00")
    assert read_row([base, 1, 2, 1]) is None
    assert as_rows([base, 1, 2, 1, 1, 1]) == [[base, 1, 2, 1, 1, 1]]
    assert as_rows({"no": "list"}) == []


def test_connections_hold_a_hundred_series_of_one_timeframe():
    many = [Series(f"A{number}", Timeframe.m1) for number in range(250)]
    assert [len(part) for part in connections(many, 2)] == [84, 83, 83]
    assert [len(part) for part in connections([BTC, HOURS, ETH], 2)] == [1, 1, 1]


def test_an_exchange_without_candles_on_its_websocket_is_refused_in_words(tmp_path):
    with pytest.raises(MarketError, match=r"found source.exchange 'coinbase', whose candles ccxt does not stream"):
        open_stream(market_at("http://127.0.0.1:1", "coinbase"), tmp_path)
    with pytest.raises(MarketError, match=r"found source.exchange 'zaif', whose candles ccxt does not stream"):
        open_stream(market_at("http://127.0.0.1:1", "zaif"), tmp_path)
