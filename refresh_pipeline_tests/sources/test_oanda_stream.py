"""OANDA's newest candles, asked for at each close: complete ones alone, of all series at once."""

import asyncio
from datetime import UTC, datetime

import numpy as np
import pytest

from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources.oanda_stream import OandaStream
from refresh_pipeline.sources.registry import open_stream
from refresh_pipeline_tests.fakes.binance_stream import FastClock
from refresh_pipeline_tests.fakes.oanda import INTERNAL_ERROR, FakeOanda

BEGIN = datetime(2024, 6, 5, 12, 0, 40, tzinfo=UTC)
SPEED = 20.0
YAML = """
name: fx
source: {{kind: oanda, base_url: "{url}"{account}}}
calendar: fx
instruments: [EUR/USD, USD/JPY]
timeframes: [m1]
history: 1d
live: true
"""
PAIRS = [Series(name, Timeframe.m1) for name in ("EUR/USD", "USD/JPY")]


class TickingOanda(FakeOanda):
    """A venue whose clock runs."""

    clock = FastClock(BEGIN, SPEED)

    @property
    def now(self):
        return self.clock.now()

    @now.setter
    def now(self, value):
        """The clock alone tells."""


class Heard:
    """A listener that ends once every series has a candle."""

    def __init__(self):
        self.candles, self.ends, self.opens, self.whole = [], [], 0, asyncio.Event()

    def opened(self, series):
        self.opens += 1

    def ended(self, series, reason):
        self.ends.append(reason)

    def closed(self, candle):
        self.candles.append(candle)
        if {one.series for one in self.candles if one.open_time >= FIRST_LIVE} == set(PAIRS):
            self.whole.set()

    def told_time(self, seconds):
        pass


FIRST_LIVE = np.datetime64("2024-06-05T12:00", "us")


def heard_from(market, tmp_path, clock):
    async def listen():
        heard = Heard()
        stream = OandaStream(market, tmp_path, lambda name: "t0ken-7f1c", clock.now, SPEED)
        task = asyncio.create_task(stream.listen(PAIRS, heard, 5.0))
        await asyncio.wait_for(heard.whole.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return heard

    return asyncio.run(listen())


def test_the_newest_complete_candles_come_after_their_close(tmp_path):
    TickingOanda.clock = FastClock(BEGIN, SPEED)
    with TickingOanda(BEGIN) as venue:
        venue.fail(INTERNAL_ERROR, path="latest")
        market = parse_market(YAML.format(url=venue.base_url, account=", account: 101-004-1-001"), "fx.yaml")
        heard = heard_from(market, tmp_path, venue.clock)
        for candle in heard.candles:
            symbol = candle.series.instrument.replace("/", "_")
            row = venue.candle(symbol, "M1", str(candle.open_time))
            assert row["complete"]
            assert candle.values == (*(float(row["mid"][name]) for name in "ohlc"), float(row["volume"]))
    assert heard.opens >= 1


def test_an_account_is_needed(tmp_path):
    market = parse_market(YAML.format(url="http://127.0.0.1:1", account=""), "fx.yaml")
    with pytest.raises(MarketError, match=r"live: found no source.account; allowed: the id of the OANDA account"):
        open_stream(market, tmp_path)
