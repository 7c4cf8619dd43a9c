"""Comparisons of prices against exact arithmetic on integer ticks, and against the same market in whole numbers."""

import duckdb
import numpy as np
import pytest

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.fractals import DEGREES
from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.analytics.rolling import shifted, windowed_sum
from refresh_pipeline.analytics.ties import averages_tie, snapped, without_ties
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline_tests.analytics.sample_bars import computed_alone, differing, stacked
from refresh_pipeline_tests.reference_data import MADE, ORIGINS, REAL, REAL_CANDLES

# File, and ticks in one unit of price.
PUBLISHED = {
    "binance_SOLUSDT_1m": 10_000,
    "binance_BTCUSDT_1h_2024w01": 100,
    "coinbase_LTCUSD_1m_201804": 100,
    "nse_NIFTY50_1m": 100,
    "oanda_EURUSD_1h": 100_000,
    "yahoo_SPY_1d": 100,
}
# Of made candles fewer, which are as many as there are ties of any kind.
LONGEST = {MADE: 3_000, REAL: 30_000}
# Ticks in one unit of price, a typical price in ticks, and how far a bar goes: DOGE, EUR/USD, SHIB, BTC, a stock.
RANDOM = {
    "doge": (100_000, 19_160, 8),
    "euro": (100_000, 112_000, 12),
    "shib": (100_000_000, 1_250, 3),
    "bitcoin": (100, 9_500_000, 2_000),
    "stock": (20, 30_000, 3),
}
CHOSEN = [
    *("price_steps", "candle_shapes", "support_resistance", "zones", "obv", "wad", "trend_direction"),
    *("volatility_regime", "volume_regime"),
]
CHOSEN_INDICATORS = indicators(CHOSEN, CALENDARS["crypto"])


def random_ticks(name, bars=6000, seed=0):
    """A walk on ticks that stands still now and then, so that ties are many; in whole ticks."""
    _, price, reach = RANDOM[name]
    random = np.random.default_rng(seed)
    steps = random.integers(-reach, reach + 1, bars) * (np.arange(bars) % 500 > 40)
    close = price + np.cumsum(steps)
    close = np.where(close < price // 2, price - close % (price // 4), close)
    opened = np.append(close[:1], close[:-1]) + random.integers(-1, 2, bars)
    high = np.maximum(opened, close) + random.integers(0, reach + 1, bars)
    low = np.minimum(opened, close) - random.integers(0, reach + 1, bars)
    return {"open": opened, "high": high, "low": low, "close": close, "volume": random.integers(1, 40, bars)}


def in_prices(ticks, per_unit):
    """The candles as a venue quotes them: the float that stands nearest to so many ticks."""
    return {name: values / (1 if name == "volume" else per_unit) for name, values in ticks.items()}


@pytest.fixture(scope="module", params=[*RANDOM, *(f"{origin} {name}" for origin in ORIGINS for name in PUBLISHED)])
def market(request, made_candles):
    """Ticks as integers, and the same candles as floats."""
    if request.param in RANDOM:
        ticks, per_unit = random_ticks(request.param), RANDOM[request.param][0]
    else:
        origin, name = request.param.split(" ")
        path, per_unit = (made_candles if origin == MADE else REAL_CANDLES) / f"{name}.parquet", PUBLISHED[name]
        ticks = published_ticks(path, per_unit, LONGEST[origin])
    return ticks, in_prices(ticks, per_unit)


def published_ticks(path, per_unit, longest):
    rows = duckdb.execute(f"select open, high, low, close, volume from '{path}' limit {longest}").fetchnumpy()
    prices = {key: np.ma.filled(rows[key].astype(np.float64), 0.0) for key in rows}
    ticks = {key: np.rint(prices[key] * per_unit).astype(np.int64) for key in ("open", "high", "low", "close")}
    return ticks | {"volume": prices["volume"]}


def before(values, bars=1):
    """The value some rows earlier; the first one where there is none."""
    return values[np.maximum(np.arange(len(values)) - bars, 0)]


def test_candle_shapes_are_those_of_integer_ticks(market):
    ticks, prices = market
    opened, high, low, close = (ticks[name] for name in ("open", "high", "low", "close"))
    body, upper, lower = abs(close - opened), high - np.maximum(opened, close), np.minimum(opened, close) - low
    expected = {
        "doji": 10 * body <= high - low,
        "hammer": (lower >= 2 * body) & (upper <= body),
        "shooting_star": (upper >= 2 * body) & (lower <= body),
        "higher_high": high > before(high),
        "lower_high": high < before(high),
        "higher_low": low > before(low),
        "lower_low": low < before(low),
    }
    computed = computed_alone(CHOSEN_INDICATORS, prices)
    for name, flags in expected.items():
        assert flags.any(), name
        assert list(np.flatnonzero(computed[name][1:] != flags[1:])) == [], name


def exact_oscillators(ticks):
    """340 times the ao and 1,700 times the ac in half ticks: whole numbers."""
    doubled = (ticks["high"] + ticks["low"]).astype(np.float64)
    ao = 34 * windowed_sum(doubled, 5) - 5 * windowed_sum(doubled, 34)
    return ao, 5 * ao - windowed_sum(ao, 5)


def test_colours_zones_and_crosses_are_those_of_whole_numbers(market):
    ticks, prices = market
    ao, ac = exact_oscillators(ticks)
    computed = computed_alone(ENHANCED_CANDLES, prices)
    settled = slice(45, None)
    green_ao, green_ac = ao > shifted(ao, 1), ac > shifted(ac, 1)
    both, neither = green_ao & green_ac, ~green_ao & ~green_ac
    expected = {
        "ao_color": np.where(green_ao, "green", "red"),
        "ac_color": np.where(green_ac, "green", "red"),
        "zone_signal": 1.0 * (both & before(both)) - (neither & before(neither)),
        "ao_above_zero": ao > 0,
        "ao_below_zero": ao < 0,
        "zero_cross_buy": (ao > 0) & (shifted(ao, 1) < 0),
        "saucer_buy": (ao > 0) & green_ao & ~before(green_ao) & ~before(green_ao, 2),
    }
    for name, flags in expected.items():
        assert list(np.flatnonzero(computed[name][settled] != flags[settled])) == [], name


def test_divergent_bars_are_those_of_integer_ticks(market):
    ticks, prices = market
    high, low, close = (ticks[name] for name in ("high", "low", "close"))
    computed = computed_alone(ENHANCED_CANDLES, prices)
    lips = computed["lips"]
    buy = (lips > prices["high"]) & (low < before(low)) & (2 * close > high + low)
    sell = (lips < prices["low"]) & (high > before(high)) & (2 * close < high + low)
    assert list(np.flatnonzero(computed["divergent"][8:] != buy[8:] * 1.0 - (sell & ~buy)[8:])) == []


def test_every_flag_and_text_is_that_of_the_same_market_in_whole_numbers(market):
    """Prices in 3,400ths of a tick are whole, and so are their means over 5 and 34 bars and over two sides."""
    ticks, prices = market
    whole = {name: values * (1.0 if name == "volume" else 3400.0) for name, values in ticks.items()}
    for table in (ENHANCED_CANDLES, CHOSEN_INDICATORS):
        computed, expected = computed_alone(table, prices), computed_alone(table, whole)
        for column in table.columns:
            if column.unit not in {"flag", "text", "touches"}:
                continue
            assert list(differing(computed[column.name], expected[column.name], relative=0)) == [], column.name


def test_equal_means_of_two_sides_are_equal_highs_and_closes():
    bid, ask = np.array([1.1, 1.2, 1.15]), np.array([1.3, 1.2, 1.25])
    middle = (bid + ask) / 2
    assert middle[0] != middle[1]
    assert len(set(snapped(middle, middle))) == 1
    rows = {name: np.tile([1.0], 40) for name in ("open", "high", "low", "close", "volume")}
    for high in (middle[:2], middle[1::-1]):
        rows["high"] = np.concatenate([np.full(10, 1.0), [1.1], high, np.full(27, 1.0)])
        computed = computed_alone(ENHANCED_CANDLES, rows)
        assert not any(computed[f"fractal_up_{degree}"].any() for degree in DEGREES)
        assert computed_alone(CHOSEN_INDICATORS, rows)["higher_high"][12] == 0


def rose_by_two_percent(ticks):
    """A calm market whose last bar rises by exactly 2 % on a high volume; in ticks of 0.00001, a multiple of 50."""
    close = np.append(np.full(60, ticks), ticks // 50 * 51) / 100_000
    return dict.fromkeys(("open", "high", "low", "close"), close) | {"volume": np.append(np.ones(60), 50.0)}


def test_a_rise_of_exactly_two_percent_begins_no_zone_on_any_price():
    markets = [rose_by_two_percent(50 * factor) for factor in range(1, 300)]
    assert any((m["close"][-1] - m["close"][0]) / m["close"][0] > 0.02 for m in markets)
    assert np.isnan(CHOSEN_INDICATORS.compute(stacked(markets))["demand_zone_high"]).all()


def test_a_tick_of_the_dearest_market_is_no_tie():
    price = np.array([1e5])
    tick_in_the_longest_window = np.array([0.01 / 1700])
    assert without_ties(tick_in_the_longest_window, averages_tie(price)) == tick_in_the_longest_window
