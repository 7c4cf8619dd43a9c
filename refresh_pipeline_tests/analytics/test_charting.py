"""What charting programs have besides TA-Lib, held against published values and against definitions."""

import csv
import gzip
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.indicators import UnknownIndicator, indicators
from refresh_pipeline.market.calendars.registry import CALENDARS, calendar_named
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Floats
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline_tests.analytics.sample_bars import OWN_GOLDEN, Market, history, stacked

CRYPTO = CALENDARS["crypto"]
PUBLIC = OWN_GOLDEN / "public"
# Our column, the file, its column.
REFERENCES = (
    ("ichimoku_conversion", "ichimoku", "tenkanSen"),
    ("ichimoku_base", "ichimoku", "kijunSen"),
    ("ichimoku_span_a", "ichimoku", "senkouSpanA"),
    ("ichimoku_span_b", "ichimoku", "senkouSpanB"),
    ("alma", "alma", "alma"),
    ("chandelier_exit_long", "chexit", "chandelierExit"),
    ("atr_stop", "atr-stop", "atrStop"),
    ("fisher", "fisher", "fisher"),
    ("fisher_trigger", "fisher", "trigger"),
    ("stc", "stc", "stc"),
    ("ulcer", "ulcer", "ulcerIndex"),
    ("envelope_upper", "ma-env", "upperEnvelope"),
    ("envelope_lower", "ma-env", "lowerEnvelope"),
    ("pivot_month", "pivot-points", "pp"),
    *((f"pivot_month_{each}", "pivot-points", each) for each in ("r1", "r2", "r3", "s1", "s2", "s3")),
)


def table(name: str) -> dict[str, list[str]]:
    with gzip.open(PUBLIC / f"{name}.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    return {key: [row[key] for row in rows] for key in rows[0]}


def numbers(cells: list[str]) -> Floats:
    return np.array([float(cell or "nan") for cell in cells])


@pytest.fixture(scope="module")
def quotes() -> Bars:
    rows = table("spy_2017_2018")
    columns = {name: numbers(rows[name]) for name in ("open", "high", "low", "close", "volume")}
    return Bars(np.array(rows["date"], dtype="datetime64[us]"), columns, np.array([0, len(rows["date"])]))


@pytest.fixture(scope="module")
def computed(quotes: Bars) -> Mapping[str, Any]:
    return dict(indicators(["tradingview"], CRYPTO).compute(quotes))


@pytest.mark.parametrize(("column", "file", "reference"), REFERENCES)
def test_columns_have_the_published_values(column: str, file: str, reference: str, computed: dict[str, Floats]) -> None:
    wanted = numbers(table(file)[reference])
    found = computed[column][: len(wanted)]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_hurst_exponent_has_the_published_values() -> None:
    rows = table("hurst")
    close = numbers(rows["close"])
    times = np.datetime64("1998-01-02", "us") + np.arange(len(close)) * np.timedelta64(1, "D")
    columns: dict[str, Floats] = dict.fromkeys(CANDLE_COLUMNS, close)
    found = indicators(["hurst"], CRYPTO).compute(Bars(times, columns, np.array([0, len(close)])))["hurst"]
    wanted = numbers(rows["hurst"])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    # A market that stands still has none.
    still = {name: np.ones(400) for name in columns}
    flat = Bars(np.resize(times, 400), still, np.array([0, 400]))
    assert np.isnan(indicators(["hurst"], CRYPTO).compute(flat)["hurst"]).all()


def test_zigzag_has_the_published_turning_points_each_from_the_bar_that_confirmed_it(quotes: Bars) -> None:
    reference = table("zigzag")
    points = [
        (row, kind, float(price))
        for row, (kind, price) in enumerate(zip(reference["pointType"], reference["zigZag"], strict=True))
        if kind
    ]
    close = quotes["close"]
    of_closes = Bars(quotes.open_time, {**quotes.columns, "high": close, "low": close}, quotes.starts)
    found = indicators(["zigzag"], CRYPTO).compute(of_closes)
    price, side, age = (found[f"zigzag_{name}"] for name in ("price", "side", "age"))
    new = np.flatnonzero(np.append(False, (price[1:] != price[:-1]) & ~np.isnan(price[1:])))
    shown = [(int(row - age[row]), "L" if side[row] > 0 else "H", float(price[row])) for row in new]
    # The first low is the begin of the history.
    assert shown[1:] == points
    for row, (turn, kind, price_there) in zip(new[1:], points, strict=True):
        since = close[turn + 1 : row + 1]
        moved = since.max() / price_there - 1 if kind == "L" else 1 - since.min() / price_there
        assert moved >= 0.05
        assert abs(since[:-1] / price_there - 1).max(initial=0) < 0.05


def test_pivot_variants_are_of_the_day_before(quotes: Bars, computed: dict[str, Floats]) -> None:
    opened, high, low, close = (quotes[name] for name in ("open", "high", "low", "close"))
    before, row = 100, 101
    reach, point = high[before] - low[before], (high[before] + low[before] + close[before]) / 3
    assert computed["pivot_fib_r2"][row] == pytest.approx(point + 0.618 * reach)
    assert computed["pivot_camarilla_s3"][row] == pytest.approx(close[before] - 1.1 * reach / 4)
    assert computed["pivot_woodie"][row] == pytest.approx((high[before] + low[before] + 2 * opened[row]) / 4)
    doubled = high[before] if close[before] > opened[before] else low[before]
    assert computed["pivot_demark"][row] == pytest.approx((high[before] + low[before] + close[before] + doubled) / 4)


def test_vwap_of_a_week_begins_anew_on_monday_and_its_bands_are_weighted_deviations() -> None:
    minutes = history(Market(bars=3000))
    times = np.datetime64("2024-06-02T12:00", "us") + np.arange(3000) * np.timedelta64(10, "m")
    columns = {name: minutes[name] for name in ("open", "high", "low", "close", "volume")}
    bars = Bars(times, columns, np.array([0, 3000]))
    found = indicators(["days", "weeks", "sessions"], CRYPTO).compute(bars)
    monday = np.flatnonzero(times == np.datetime64("2024-06-10T00:00", "us"))[0]
    rows = slice(monday, monday + 200)
    typical, volume = (bars["high"] + bars["low"] + bars["close"])[rows] / 3, np.nan_to_num(bars["volume"][rows])
    known = ~np.isnan(bars["volume"][rows])
    wanted = (np.cumsum(typical * volume) / np.cumsum(volume))[known]
    np.testing.assert_allclose(found["vwap_week"][rows][known], wanted, rtol=1e-9)
    assert known[143]
    day = slice(monday, monday + 144)
    mean = np.average(typical[:144], weights=volume[:144])
    deviation = np.sqrt(np.average((typical[:144] - mean) ** 2, weights=volume[:144]))
    assert found["vwap_upper_2"][day][-1] == pytest.approx(mean + 2 * deviation, rel=1e-7)
    assert found["vwap_lower_1"][day][-1] == pytest.approx(mean - deviation, rel=1e-7)


def test_simple_ones_follow_their_definitions(quotes: Bars, computed: dict[str, Floats]) -> None:
    high, low, close, volume = (quotes[name] for name in ("high", "low", "close", "volume"))
    row = 300
    window = close[row - 19 : row + 1]
    assert computed["z_score"][row] == pytest.approx((close[row] - window.mean()) / window.std())
    returns = np.diff(np.log(close[row - 20 : row + 1]))
    assert computed["historical_volatility"][row] == pytest.approx(100 * returns.std(ddof=1))
    assert computed["log_return"][row] == pytest.approx(np.log(close[row] / close[row - 1]))
    assert computed["drawdown"][row] == pytest.approx(100 * (close[row] / close[row - 251 : row + 1].max() - 1))
    last = slice(row - 13, row + 1)
    moved = np.maximum(high[1:], close[:-1]) - np.minimum(low[1:], close[:-1])
    whole = high[last].max() - low[last].min()
    assert computed["choppiness"][row] == pytest.approx(
        100 * np.log10(moved[row - 14 : row].sum() / whole) / np.log10(14)
    )
    change = (high[1:] + low[1:] - high[:-1] - low[:-1]) / 2
    eased = 10_000 * change * (high - low)[1:] / volume[1:]
    assert computed["ease_of_movement"][row] == pytest.approx(eased[row - 14 : row].mean())
    line = np.polyfit(np.arange(100), close[row - 99 : row + 1], 1)
    residue = close[row - 99 : row + 1] - np.polyval(line, np.arange(100))
    reach = 2 * np.sqrt((residue**2).mean())
    assert computed["regression_channel_upper"][row] == pytest.approx(np.polyval(line, 99) + reach)


def test_setups_count_closes_against_the_fourth_before(quotes: Bars, computed: dict[str, Floats]) -> None:
    close, count, expected = quotes["close"], 0, []
    for row in range(len(close)):
        count = 0 if row < 4 or close[row] >= close[row - 4] else count % 9 + 1
        expected.append(count if row >= 4 else np.nan)
    np.testing.assert_array_equal(computed["td_sequential_buy"], expected)


def test_bounded_ones_keep_to_their_bounds(computed: dict[str, Floats]) -> None:
    for name in ("stc", "connors_rsi", "qqe", "qqe_trailing"):
        known = computed[name][~np.isnan(computed[name])]
        assert len(known) > 300
        assert (
            -30 <= known.min() <= known.max() <= 130
            if name == "qqe_trailing"
            else -1e-9 <= known.min() <= known.max() <= 100 + 1e-9
        )
    assert set(computed["squeeze_on"][~np.isnan(computed["squeeze_on"])]) == {0, 1}


def test_every_column_has_values_and_parameters_of_ones_own_give_columns(computed: dict[str, Floats]) -> None:
    assert [name for name, values in computed.items() if np.isnan(values).all()] == []
    own = indicators(
        [{"alma": [21]}, {"zigzag": [3]}, {"ichimoku": {"conversion": 20, "base": 60, "span": 120}}], CRYPTO
    )
    assert [column.name for column in own.columns][:4] == ["alma_21", "zigzag_price_3", "zigzag_side_3", "zigzag_age_3"]
    for wrong in (
        {"hurst": {"timeperiod": 20}},
        {"alma": [1]},
        {"zigzag": [0]},
        {"ulcer": [100_000]},
        {"alma": {"sigma": -1}},
    ):
        with pytest.raises(UnknownIndicator, match="cannot be computed"):
            indicators([wrong], CRYPTO)


def test_sessions_are_those_of_the_calendar() -> None:
    stocks = calendar_named("XNYS")
    times = stocks.open_times(Timeframe.m30, np.datetime64("2026-11-02", "us"), np.datetime64("2026-11-20", "us"))
    minutes = history(Market(bars=len(times)))
    columns = {name: minutes[name] for name in ("open", "high", "low", "close", "volume")}
    found = indicators(["days"], stocks).compute(Bars(times, columns, np.array([0, len(times)])))
    begins = np.flatnonzero(np.diff(times) > np.timedelta64(12, "h")) + 1
    changes = np.flatnonzero(np.diff(np.nan_to_num(found["pivot_fib_r1"])) != 0) + 1
    np.testing.assert_array_equal(changes, begins)


def test_several_series_are_kept_apart() -> None:
    several = [history(Market(bars=400, seed=seed)) for seed in (1, 2)]
    table = indicators(["tradingview"], CRYPTO)
    together, alone = table.compute(stacked(several)), table.compute(stacked(several[1:]))
    for name, values in alone.items():
        np.testing.assert_array_equal(together[name][400:], values)
