"""The completeness of a window of candles in Redis."""

from datetime import UTC, datetime

import numpy as np

from refresh_pipeline.destinations.redis import CandleWindow
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline.redis_cache import candle_windows

NOW = datetime(2026, 6, 3, 12, tzinfo=UTC)


def metals() -> Market:
    return parse_market(
        """
        name: metals
        source: {kind: demo}
        calendar: fx
        instruments: {EUR/USD: {}, XAU/USD: {class: metal}}
        timeframes: [H1]
        history: 30d
        """,
        file="metals.yaml",
    )


def window(market: Market, instrument: str) -> CandleWindow:
    """The window of a series with every candle of its instrument's calendar, of the last two days."""
    series = Series(instrument, Timeframe.H1)
    calendar = market.calendar_of(instrument)
    times = calendar.open_times(
        Timeframe.H1, np.datetime64("2026-06-01T12", "us"), np.datetime64("2026-06-03T12", "us")
    )
    [window] = candle_windows(market, [(series, {"open_time": times})], NOW)
    return window


def test_a_window_without_the_daily_pause_of_a_metal_is_whole() -> None:
    market = metals()
    gold, euro = window(market, "XAU/USD"), window(market, "EUR/USD")
    assert len(gold.open_times) == len(euro.open_times) - 2
    assert (gold.completeness, euro.completeness) == (1.0, 1.0)
