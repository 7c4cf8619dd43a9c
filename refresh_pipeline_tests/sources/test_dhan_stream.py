"""Dhan's live feed against a venue on loopback that sends its binary packets: provisional candles, no secrets told."""

import logging
import struct
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, instant
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.fetch import refresh_candles
from refresh_pipeline.sources import dhan_stream
from refresh_pipeline.sources.dhan import DhanSource
from refresh_pipeline.sources.dhan_packets import REASONS, Disconnected, Traded, packets
from refresh_pipeline.sources.dhan_stream import DhanStream
from refresh_pipeline.sources.registry import open_source, open_stream
from refresh_pipeline.sources.tick_candles import Bars, Tick, TickCandles
from refresh_pipeline.streaming.live_run import Clock, LiveRun, Parts
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.fakes.binance_stream import FastClock
from refresh_pipeline_tests.fakes.dhan_stream import StreamingDhan
from refresh_pipeline_tests.sources.listening import Heard, listening

# A Friday, 10:30:20 in India.
BEGIN = datetime(2024, 6, 14, 5, 0, 20, tzinfo=UTC)
# A minute lasts 0.6 s.
SPEED = 100.0
RELIANCE, TCS, NIFTY = (Series(name, Timeframe.m1) for name in ("RELIANCE", "TCS", "NIFTY"))
IDS = {"RELIANCE": "2885", "TCS": "11536", "NIFTY": "13"}
YAML = """
name: nse
source: {{kind: dhan, base_url: "{url}"{more}}}
calendar: nse
instruments:
  RELIANCE: {{ids: {{security_id: 2885}}}}
  TCS: {{ids: {{security_id: 11536}}}}
  NIFTY: {{class: index, ids: {{security_id: 13}}}}
timeframes: [m1]
history: 1d
indicators: {{compute: [sma_20]}}
live: {{streams: 1, rest_after: 900ms}}
"""


def market_at(url, more=""):
    return parse_market(YAML.format(url=url, more=more), "nse.yaml")


class Desk:
    """A venue and a stream that listens to it in a thread."""

    def __init__(self, venue, folder):
        self.venue, self.folder, self.heard = venue, folder, Heard()
        self.secrets = {"DHAN_CLIENT_ID": venue.client_id, "DHAN_ACCESS_TOKEN": venue.token}

    def listening(self, *series, silence=30.0):
        stream = DhanStream(
            market_at(self.venue.base_url), self.folder, self.secrets.get, lambda: self.venue.now, self.venue._speed
        )
        return listening(stream, series, self.heard, silence)

    def true_values(self, series, open_time):
        """What REST says of a candle."""
        at = open_time.astype(datetime) + timedelta(hours=5, minutes=30)
        row = self.venue.row(IDS[series.instrument], "1", at.isoformat())
        return tuple(float(row[name]) for name in CANDLE_COLUMNS)


@pytest.fixture
def desk(tmp_path, monkeypatch, request):
    speed = getattr(request, "param", SPEED)
    # The next minute's trades close a bar, however slow the machine is; the clock does where none come.
    monkeypatch.setattr(dhan_stream, "SETTLED", 2.0)
    with StreamingDhan(FastClock(BEGIN, speed).now, speed) as venue:
        yield Desk(venue, tmp_path)


def test_candles_come_from_trades_and_the_first_minute_of_a_connection_is_left_out(desk):
    faults = desk.venue.faults
    faults.twice, faults.missing = {"2885"}, {"11536"}
    with desk.listening(RELIANCE, TCS, NIFTY) as heard:
        desk.heard.wait_until(lambda: min(len(heard.of(each)) for each in (RELIANCE, NIFTY)) >= 2)
        first = instant(BEGIN + timedelta(seconds=30))
        faults.missing, faults.thinned = set(), {"11536"}
        # The first of them may have begun while nothing came.
        desk.heard.wait_until(lambda: len(heard.of(TCS)) >= 2)
        whole = list(heard.candles)
        # Where no trade comes any more, the clock closes the bar.
        faults.stalled = True
        time.sleep(0.2)
        told = len(heard.candles)
        desk.heard.wait_until(lambda: len(heard.candles) > told)
    of_whole_minutes = [candle for candle in whole if candle.series != TCS]
    assert min(candle.open_time for candle in of_whole_minutes) >= first
    assert all(candle.values == desk.true_values(candle.series, candle.open_time) for candle in of_whole_minutes)
    # A trade that the feed leaves out is missing in the candle: that is what makes it provisional.
    candle = [candle for candle in whole if candle.series == TCS][-1]
    opened, high, _, close, volume = candle.values
    assert (opened, close, volume) == tuple(desk.true_values(TCS, candle.open_time)[place] for place in (0, 3, 4))
    assert high < desk.true_values(TCS, candle.open_time)[1]
    # An index has prices alone, a share its volume as well.
    assert [(order["RequestCode"], order["InstrumentCount"]) for order in desk.venue.orders] == [(15, 1), (17, 2)]
    assert desk.venue.orders[0]["InstrumentList"] == [{"ExchangeSegment": "IDX_I", "SecurityId": "13"}]


def test_whatever_ends_a_connection_is_told_without_secrets_and_begins_anew(desk, caplog):
    caplog.set_level(logging.DEBUG)
    faults = desk.venue.faults
    with desk.listening(RELIANCE, silence=0.7) as heard:
        desk.heard.wait_until(lambda: heard.candles)
        for number, fault in enumerate((desk.venue.cut, desk.venue.shut_down), start=1):
            fault()
            desk.heard.wait_until(lambda number=number: len(heard.opens) > number)
        faults.torn = True
        desk.heard.wait_until(lambda: any("bytes of packet 4" in reason for reason in heard.reasons))
        faults.stalled = True
        desk.heard.wait_until(lambda: any("no message within 0.7 s" in reason for reason in heard.reasons))
        faults.stalled, faults.refused = False, 401
        desk.venue.cut()
        desk.heard.wait_until(lambda: any("HTTP 401" in reason for reason in heard.reasons))
        faults.refused = 0
        # One that passes and one that does not.
        for code in (805, 807):
            faults.disconnects = code
            desk.venue.cut()
            desk.heard.wait_until(
                lambda code=code: any(f"code {code}: {REASONS[code]}" in each for each in heard.reasons)
            )
        faults.disconnects = 0
        told = len(heard.candles)
        desk.heard.wait_until(lambda: len(heard.candles) > told)
    assert all(candle.values == desk.true_values(RELIANCE, candle.open_time) for candle in heard.candles)
    assert len({candle.open_time for candle in heard.candles}) == len(heard.candles)
    texts = "".join([*heard.reasons, caplog.text])
    assert desk.venue.token not in texts
    assert desk.venue.client_id not in texts


@pytest.mark.parametrize("desk", [40.0], indirect=True)
def test_a_live_run_stores_provisional_candles_and_a_refresh_corrects_them(desk, tmp_path):
    warehouse, market = Warehouse(tmp_path / "live.duckdb", patience=5.0), market_at(desk.venue.base_url)
    source = DhanSource(market, tmp_path, desk.secrets.get)
    clock = Clock(lambda: desk.venue.now, desk.venue._speed)
    stream = DhanStream(market, tmp_path, desk.secrets.get, clock.now, clock.speed)
    desk.venue.faults.thinned = {"11536"}
    reports = []
    run = LiveRun(market, Parts(warehouse, source, stream, clock, report=reports.append))
    thread = threading.Thread(target=run.run)
    thread.start()
    try:
        desk.heard.wait_until(
            lambda: any(set(report.series) - set(report.filled) >= {RELIANCE, TCS} for report in reports)
        )
    finally:
        run.end()
        thread.join(20)
    stored = candles_of(warehouse)
    assert {source for *_, source in stored} == {"dhan", "dhan-feed"}
    wrong = [(series, source) for series, at, values, source in stored if values != desk.true_values(series, at)]
    assert set(wrong) == {(TCS, "dhan-feed")}
    now = desk.venue.now
    attempts = refresh_candles(
        warehouse, market, source, market.series, now, gaps={}, since=now - timedelta(minutes=65)
    )
    assert sum(attempt.rows_revised for attempt in attempts.values()) == len(wrong)
    corrected = [row for row in candles_of(warehouse) if row[:2] in {each[:2] for each in stored}]
    assert all(values == desk.true_values(series, at) for series, at, values, _ in corrected)
    assert {source for series, _, _, source in corrected if series == TCS} == {"dhan"}
    with warehouse.reader() as connection:
        kept = connection.execute("select distinct instrument, source from nse.raw_candle_revisions").fetchall()
    assert kept == [("TCS", "dhan-feed")]


@pytest.mark.parametrize("desk", [0.001], indirect=True)
def test_a_fallback_leaves_provisional_candles_which_dhan_corrects_however_late(desk, tmp_path):
    text = (
        YAML.format(url=desk.venue.base_url, more="")
        .replace("source: {", "source: [{")
        .replace("}\ncal", "}, {kind: demo}]\ncal")
    )
    market, warehouse = parse_market(text, "nse.yaml"), Warehouse(tmp_path / "live.duckdb")
    times = np.arange("2024-06-14T03:45", "2024-06-14T05:00", dtype="datetime64[m]").astype("datetime64[us]")
    values = np.array([desk.true_values(TCS, time) for time in times]).T
    # The oldest six are wrong, further back than a refresh of a live market reads again.
    values[3, :6] = values[1, :6] = values[1, :6] * 1.01
    warehouse.prepare(market)
    streamed = Candles.of(times, **dict(zip(CANDLE_COLUMNS, values, strict=True)))
    warehouse.store_candles(market, {TCS: streamed}, "dhan-feed", desk.venue.now)

    def refreshed(secrets):
        source = open_source(market, tmp_path, secrets)
        [attempt] = refresh_candles(warehouse, market, source, [TCS], desk.venue.now, gaps={}).values()
        return attempt

    def stored():
        return {at: (values, source) for _, at, values, source in candles_of(warehouse) if at in times}

    # Dhan is away: the fallback's candles of these bars are a second opinion.
    before = stored()
    assert refreshed({}.get).rows_revised == 0
    assert stored() == before
    with warehouse.reader() as connection:
        [(opinions,)] = connection.execute("select count(*) from nse.cross_checks where source = 'demo'").fetchall()
    assert opinions == len(times)
    assert refreshed(desk.secrets.get).rows_revised == 6
    assert all(values == desk.true_values(TCS, at) for at, (values, _) in stored().items())
    assert [source for _, source in stored().values()].count("dhan") == 6


def candles_of(warehouse):
    with warehouse.reader() as connection:
        names = ", ".join(CANDLE_COLUMNS)
        rows = connection.execute(f"select instrument, open_time, source, {names} from nse.raw_candles").fetchall()
    return [
        (Series(name, Timeframe.m1), np.datetime64(at), tuple(values), source) for name, at, source, *values in rows
    ]


def test_bars_close_late_ticks_change_nothing_and_volumes_are_differences():
    def tick(minute, second, price, volume=None, day=14):
        return Tick(int(datetime(2024, 6, day, 5, minute, second, tzinfo=UTC).timestamp()), price, volume)

    noon = tick(0, 0, 1.0).second
    bars = Bars(CALENDARS["nse"], Timeframe.m1)
    candles = TickCandles(RELIANCE, bars, complete_from=noon + 1)
    # The minute in which the connection was opened: not told, but its volume counts for the next one.
    assert candles.take(tick(0, 30, 10.0, 900)) is None
    assert candles.take(tick(1, 1, 11.0, 1000)) is None
    assert candles.take(tick(1, 20, 14.0, 1100)) is None
    # An older packet, with less volume.
    assert candles.take(tick(0, 59, 99.0, 950)) is None
    assert candles.close(noon + 119) is None
    closed = candles.close(noon + 120)
    assert closed is not None
    assert closed.values == (11.0, 14.0, 11.0, 14.0, 200.0)
    # A trade of the closed minute that comes late is in no candle, and not in the next one's volume.
    assert candles.take(tick(1, 59, 50.0, 1150)) is None
    assert candles.take(tick(2, 0, 12.0, 1200)) is None
    following = candles.take(tick(4, 0, 13.0, 1300))
    assert following is not None
    assert following.values == (12.0, 12.0, 12.0, 12.0, 50.0)
    # On another day the volume begins anew, and what was traded before the first tick is not known.
    assert candles.take(tick(0, 0, 13.0, 10, day=18)) is not None
    assert candles.close(tick(1, 0, 1.0, day=18).second) is None
    # Outside the session there is no bar.
    assert bars.bar(int(datetime(2024, 6, 14, 3, 37, tzinfo=UTC).timestamp())) is None
    index = TickCandles(NIFTY, Bars(CALENDARS["nse"], Timeframe.m15), complete_from=0)
    index.take(tick(0, 5, 22_000.5))
    [only] = [index.close(noon + 900)]
    assert only is not None
    assert only.values[-1] == 0.0


def test_packets_are_read_one_after_another_and_odd_ones_are_skipped():
    ticker = struct.pack("<BHBIfI", 2, 16, 0, 13, 22_000.55, 1_718_360_000)
    quote = struct.pack("<BHBIfHIfIIIffff", 4, 50, 1, 2885, 2900.35, 5, 1_718_360_001, 1.0, 777, 1, 1, 1, 1, 1, 1)
    unknown, nothing = struct.pack("<BHBI4x", 99, 12, 1, 1), struct.pack("<BHBIfI", 2, 16, 1, 7, 0.0, 0)
    index, share = packets(ticker + unknown + nothing + quote)
    assert index == Traded(0, 13, Tick(1_718_360_000 - 19_800, 22_000.55, None))
    assert share == Traded(1, 2885, Tick(1_718_360_001 - 19_800, 2900.35, 777))
    assert list(packets(struct.pack("<BHBIH", 50, 10, 0, 0, 805))) == [Disconnected(805)]
    with pytest.raises(ValueError, match="expected 50 bytes of packet 4, received 49"):
        list(packets(quote[:-1]))
    with pytest.raises(ValueError, match="expected a header of 8 bytes, received 3"):
        list(packets(ticker + b"abc"))


def test_a_token_goes_over_ws_to_another_machine_only_where_the_market_says_so(tmp_path):
    with pytest.raises(MarketError, match=r"source.stream_url: found ws:// to feed.example, which shows the token"):
        open_source(market_at("https://api.dhan.co/v2", ", stream_url: 'ws://feed.example'"), tmp_path)
    stream = open_stream(market_at("https://api.dhan.co/v2"), tmp_path)
    assert stream.kind == "dhan-feed"
    assert [each.value for each in stream.streamed_timeframes] == ["m1", "m5", "m15", "H1"]


def test_without_credentials_the_feed_says_which_to_set(desk):
    desk.secrets = {"DHAN_CLIENT_ID": "", "DHAN_ACCESS_TOKEN": ""}
    with desk.listening(RELIANCE) as heard:
        desk.heard.wait_until(lambda: heard.reasons)
    assert "set DHAN_CLIENT_ID and DHAN_ACCESS_TOKEN" in heard.reasons[0]
