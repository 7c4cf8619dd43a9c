"""The simulated venue: the same everywhere, coherent, plausible, closed candles only, and quick."""

import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, faults, instant
from refresh_pipeline.market.model import Market, MarketError, parse_market
from refresh_pipeline.market.resampling import resample
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, Request
from refresh_pipeline.sources.demo import DemoSource, profile_of

NOW = datetime(2026, 9, 30, 12, 34, 56, tzinfo=UTC)
LATE = datetime(2100, 1, 1, tzinfo=UTC)
# When golden/demo_values.json was recorded.
LATEST_RECORDED = datetime(2026, 11, 29, 12, 34, tzinfo=UTC)
CATALOG = ("BTC/USD", "ETH/USD", "EUR/USD", "USD/JPY", "XAU/USD", "SPX500", "AAPL", "RELIANCE")


def market(calendar: str = "crypto", options: str = ", seed: 1", more: str = "") -> Market:
    return parse_market(
        f"{{name: demo, source: {{kind: demo{options}}}, calendar: {calendar}, instruments: [BTC/USD], "
        f"timeframes: [m1], history: 1d{more}}}",
        "demo.yaml",
    )


def request(instrument: str, timeframe: Timeframe, since: str, until: str) -> Request:
    return Request(Series(instrument, timeframe), instant(since), instant(until))


def fetched(
    requests: Sequence[Request], *, calendar: str = "crypto", seed: int = 1, now: datetime = LATE
) -> list[Fetched]:
    return list(DemoSource(market(calendar, f", seed: {seed}")).fetch(requests, now))


def candles(instrument: str, timeframe: Timeframe, since: str, until: str, **how) -> Candles:
    return fetched([request(instrument, timeframe, since, until)], **how)[0].candles


def assert_same(one: Candles, other: Candles) -> None:
    np.testing.assert_array_equal(one.open_time, other.open_time)
    assert set(one.columns) == set(other.columns)
    for name, values in one.columns.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


# (open, high, low, close, volume): a change here changes what every user of the demo market has stored.
GOLDEN = {
    ("BTC/USD", "m1", "2024-01-01T00:00"): (63080.65, 63092.33, 63061.78, 63068.04, 140.0),
    ("EUR/USD", "H4", "2024-06-14T12:00"): (1.13566, 1.13618, 1.13303, 1.13364, 36662.0),
    ("USD/JPY", "H1", "1971-03-05T07:00"): (143.993, 144.098, 143.764, 144.047, 3336.0),
    ("AAPL", "D1", "1987-10-19"): (155.97, 159.64, 155.87, 158.94, 176574926.0),
    ("SOMETHING/ELSE", "W1", "2050-01-03"): (735.33, 748.62, 671.35, 684.24, 2012844.0),
}


@pytest.mark.parametrize(("which", "expected"), GOLDEN.items(), ids=["|".join(which) for which in GOLDEN])
def test_a_candle_is_the_same_on_every_machine_and_in_every_version(
    which: tuple[str, str, str], expected: tuple[float, ...]
):
    instrument, timeframe, opened = which
    one = candles(instrument, Timeframe(timeframe), opened, str(instant(opened) + np.timedelta64(9, "D")))
    assert one.open_time[0] == instant(opened)
    assert tuple(one[name][0] for name in CANDLE_COLUMNS) == expected


RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "demo_values.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", RECORDED, ids=[f"{case['calendar']}-{case['timeframe']}" for case in RECORDED])
def test_a_demo_warehouse_of_an_older_version_goes_on_without_a_revision(case: dict[str, Any]):
    it = market(case["calendar"], f", seed: {case['seed']}", f", two_sided: {str(case['two_sided']).lower()}")
    wanted = request(case["instrument"], Timeframe(case["timeframe"]), case["since"], case["until"])
    (answer,) = DemoSource(it).fetch([wanted], LATEST_RECORDED)
    digest = hashlib.sha256(answer.candles.open_time.astype("<i8").tobytes())
    for _, values in sorted(answer.candles.columns.items()):
        digest.update(np.ascontiguousarray(values).astype("<f8").tobytes())
    assert (len(answer.candles), digest.hexdigest()) == (case["candles"], case["sha256"])


def test_another_seed_gives_other_prices_of_the_same_instrument():
    def closes(seed: int):
        return candles("BTC/USD", Timeframe.D1, "2024-01-01", "2024-03-01", seed=seed)["close"]

    assert not (closes(1) == closes(2)).any()
    assert (closes(7) == closes(7)).all()
    assert 0.05 < closes(1).mean() / closes(2).mean() < 20


def test_instruments_do_not_move_together():
    names = (*CATALOG, *(f"X{number}" for number in range(40)))
    found = fetched([request(name, Timeframe.H1, "2024-01-01", "2024-04-01") for name in names])
    moves = np.array([np.diff(np.log(each.candles["close"])) for each in found])
    alike = np.corrcoef(moves) - np.eye(len(names))
    assert np.abs(alike).max() < 0.15


def test_an_instrument_is_one_whatever_way_it_is_written():
    for twin in ("EUR-USD", "eur/usd", "EURUSD"):
        assert_same(
            candles(twin, Timeframe.H1, "2024-01-01", "2024-01-02"),
            candles("EUR/USD", Timeframe.H1, "2024-01-01", "2024-01-02"),
        )


# A calendar from a table has nothing to say of 2060.
WITHOUT_END = [name for name, calendar in CALENDARS.items() if calendar.last_known is None]
minute_numbers = st.integers(np.datetime64("1965-01-01", "m").astype(int), np.datetime64("2060-01-01", "m").astype(int))


@settings(max_examples=40, deadline=None)
@given(
    start=minute_numbers,
    length=st.integers(1, 30_000),
    inner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    timeframe=st.sampled_from([Timeframe.m1, Timeframe.m15, Timeframe.H4, Timeframe.D1, Timeframe.W1]),
    calendar=st.sampled_from(WITHOUT_END),
    seed=st.integers(0, 5),
)
def test_a_part_of_a_stretch_is_the_same_asked_for_alone(start, length, inner, timeframe, calendar, seed):
    length *= max(1, timeframe.minutes // 60)
    since, until = (np.datetime64(start + offset, "m").astype("datetime64[us]") for offset in (0, length))
    first, last = (since + np.timedelta64(int(length * share), "m") for share in sorted(inner))
    series = Series("X/Y", timeframe)
    source = DemoSource(market(calendar, f", seed: {seed}"))
    whole, part = (
        each.candles for each in source.fetch([Request(series, since, until), Request(series, first, last)], LATE)
    )
    assert_same(whole.between(first, last), part)


def test_neither_company_nor_order_nor_repetition_changes_a_candle():
    requests = [
        request(name, Timeframe(timeframe), since, "2024-03-05T12:00")
        for timeframe, since in (("m1", "2024-03-04"), ("H2", "2024-02-01"), ("D1", "2023-12-01"), ("W1", "2023-06-01"))
        for name in CATALOG
    ]
    together = {each.series: each.candles for each in fetched(requests, calendar="fx")}
    backwards = fetched([*reversed(requests), *requests], calendar="fx")
    assert [each.series for each in backwards] == [r.series for r in [*reversed(requests), *requests]]
    for each in backwards:
        assert_same(each.candles, together[each.series])
    for alone in requests[::5]:
        assert_same(fetched([alone], calendar="fx")[0].candles, together[alone.series])


def test_instruments_asked_for_different_stretches_get_each_its_own():
    requests = [request(f"X{n}", Timeframe.m5, "2024-01-01", f"2024-01-01T{n:02}:30") for n in range(24)]
    assert [len(each.candles) for each in fetched(requests)] == [12 * n + 6 for n in range(24)]


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize("timeframe", [t for t in Timeframe if t > Timeframe.m1])
def test_a_longer_bar_is_made_of_its_minutes(calendar: str, timeframe: Timeframe):
    # Over both changes of New York's clocks and the leap day; many pieces of work for the long bars.
    since, until = ("2024-01-01", "2025-01-01") if timeframe >= Timeframe.D1 else ("2024-03-01", "2024-03-14")
    after = str(instant(until) + np.timedelta64(2, "D"))
    minutes = candles("EUR/USD", Timeframe.m1, "2023-12-31", after, calendar=calendar)
    expected = resample(minutes, timeframe, CALENDARS[calendar]).between(instant(since), instant(until))
    whole = CALENDARS[calendar].closes(timeframe, expected.open_time) <= minutes.open_time[-1]
    found = candles("EUR/USD", timeframe, since, until, calendar=calendar)
    assert_same(found.where(whole), expected.where(whole))
    assert len(found) >= 9


@settings(max_examples=30, deadline=None)
@given(start=minute_numbers, name=st.text("ABCXYZ/-", min_size=1, max_size=8), calendar=st.sampled_from(WITHOUT_END))
def test_no_simulated_candle_has_a_fault(start: int, name: str, calendar: str):
    since = np.datetime64(start, "m").astype("datetime64[us]")
    until = since + np.timedelta64(20, "D")
    requests = [
        Request(Series(name, timeframe), since, until) for timeframe in (Timeframe.m1, Timeframe.H1, Timeframe.D1)
    ]
    for each in fetched(requests, calendar=calendar):
        assert all(fault is None for fault in faults(each.candles))
        assert (each.candles["volume"] >= 0).all()


def test_a_minute_opens_where_the_last_one_closed():
    minutes = candles("BTC/USD", Timeframe.m1, "2024-01-01", "2024-01-08")
    assert (minutes["open"][1:] == minutes["close"][:-1]).all()


@pytest.mark.parametrize(("instrument", "decimals"), [("EUR/USD", 5), ("USD/JPY", 3), ("BTC/USDT", 2), ("SPX500", 1)])
def test_prices_have_the_decimals_of_their_instrument(instrument: str, decimals: int):
    closes = candles(instrument, Timeframe.m1, "2024-01-01", "2024-01-05")["close"]
    assert (closes == np.round(closes, decimals)).all()
    assert (closes != np.round(closes, decimals - 1)).any()


PLAUSIBLE = {
    "BTC/USD": (6_000, 600_000), "EUR/USD": (0.8, 1.5), "USD/JPY": (100, 220), "XAU/USD": (1_200, 4_500),
    "SPX500": (2_700, 11_000), "AAPL": (60, 600), "RELIANCE": (1_000, 8_500),
}  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_prices_stay_plausible_over_sixty_years(seed: int):
    requests = [
        request(name, Timeframe.D1, f"{year}-{month:02}-10", f"{year}-{month:02}-13")
        for name in PLAUSIBLE
        for year in range(2000, 2061)
        for month in (1, 7)
    ]
    answers = fetched(requests, seed=seed)
    for name, (lowest, highest) in PLAUSIBLE.items():
        days = Candles.concatenated([each.candles for each in answers if each.series.instrument == name])
        assert lowest < days["low"].min() < days["high"].max() < highest
        # Not at rest either: somewhere in sixty years it has been a volatility away from where it was.
        assert days["high"].max() / days["low"].min() > 1 + 1.2 * profile_of(name).volatility


def test_days_swing_as_much_as_the_instrument_is_known_for():
    for instrument, volatility in (("BTC/USD", 0.60), ("EUR/USD", 0.08), ("AAPL", 0.28)):
        moves = np.diff(np.log(candles(instrument, Timeframe.D1, "2021-01-01", "2024-01-01")["close"]))
        assert np.std(moves) * np.sqrt(365) == pytest.approx(volatility, rel=0.1)


def by_hour(name: str) -> np.ndarray:
    hours = candles("EUR/USD", Timeframe.H1, "2024-01-01", "2024-07-01", calendar="fx")
    of_day = (hours.open_time - hours.open_time.astype("datetime64[D]")).astype("timedelta64[h]").astype(int)
    values = hours["volume"] if name == "volume" else hours["high"] - hours["low"]
    return np.array([values[of_day == hour].mean() for hour in range(24)])


@pytest.mark.parametrize("name", ["volume", "range"])
def test_london_and_new_york_are_busy_and_the_late_evening_is_quiet(name: str):
    hours = by_hour(name)
    assert hours[12:16].min() > hours[7:11].max() * 0.95 > hours[2:6].max() * 0.95
    assert hours[22:24].max() < hours[2:6].min()
    assert hours[12:16].mean() > (3 if name == "volume" else 1.15) * hours[22:24].mean()


def test_weekends_are_quieter_where_there_are_any():
    days = candles("BTC/USD", Timeframe.D1, "2024-01-01", "2024-12-30")
    volume = days["volume"].reshape(-1, 7).mean(axis=0)
    assert volume[5:].max() < 0.6 * volume[:5].min()


def test_fx_has_no_weekend():
    hours = candles("EUR/USD", Timeframe.H1, "2024-03-01", "2024-04-01", calendar="fx")
    assert CALENDARS["fx"].is_open(hours.open_time).all()
    gaps = np.diff(hours.open_time)
    assert set(gaps.astype("timedelta64[h]").astype(int)) == {1, 49, 48}
    assert len(candles("EUR/USD", Timeframe.m1, "2024-03-09", "2024-03-10", calendar="fx")) == 0


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize("timeframe", Timeframe)
def test_every_closed_bar_is_there_and_no_other(calendar: str, timeframe: Timeframe):
    for now in (NOW, datetime(2026, 9, 27, 21, 0, tzinfo=UTC), datetime(2026, 9, 26, 3, 0, tzinfo=UTC)):
        found = candles("AAPL", timeframe, "2026-06-01", "2030-01-01", calendar=calendar, now=now).open_time
        assert found[-1] == CALENDARS[calendar].last_closed(timeframe, instant(now))
        expected = CALENDARS[calendar].open_times(timeframe, instant("2026-06-01"), instant(now))
        np.testing.assert_array_equal(found, expected[CALENDARS[calendar].closes(timeframe, expected) <= instant(now)])


def test_an_empty_stretch_gives_one_answer_without_candles():
    for since, until in (("2024-01-01", "2024-01-01"), ("2024-01-02", "2024-01-01"), ("2999-01-01", "2999-02-01")):
        (answer,) = fetched([request("AAPL", Timeframe.m1, since, until)], now=NOW)
        assert (len(answer.candles), answer.last, answer.error) == (0, True, None)


def test_an_empty_stretch_beside_an_old_one_changes_nothing():
    old = request("AAPL", Timeframe.H1, "1965-01-01", "1965-02-01")
    empty = request("AAPL", Timeframe.m1, "2999-01-01", "2999-02-01")
    assert_same(fetched([empty, old], now=NOW)[1].candles, fetched([old])[0].candles)
    assert len(fetched([old])[0].candles) == 31 * 24


def test_nothing_asked_nothing_answered():
    assert fetched([]) == []


def test_every_timeframe_is_its_own_and_every_answer_is_the_last():
    source = DemoSource(market())
    assert source.kind == "demo"
    assert set(source.native_timeframes) == set(Timeframe)
    answers = fetched([request(name, Timeframe.H1, "2024-01-01", "2024-02-01") for name in CATALOG])
    assert [each.series.instrument for each in answers] == list(CATALOG)
    assert all(each.last and each.error is None and each.seconds > 0 for each in answers)


def test_a_market_with_two_sides_gets_both_around_the_middle():
    fx = DemoSource(market("fx", more=", two_sided: true"))
    wanted = request("EUR/USD", Timeframe.H1, "2024-01-01", "2024-02-01")
    quotes = next(fx.fetch([wanted], LATE)).candles
    assert_same(
        Candles(quotes.open_time, {name: quotes[name] for name in CANDLE_COLUMNS}),
        fetched([wanted], calendar="fx")[0].candles,
    )
    for price in ("open", "high", "low", "close"):
        spread = quotes[f"ask_{price}"] - quotes[f"bid_{price}"]
        assert 0 < spread.min() <= spread.max() < 0.001
        np.testing.assert_allclose((quotes[f"ask_{price}"] + quotes[f"bid_{price}"]) / 2, quotes[price], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (", seed: one", "market 'demo': source: seed: found 'one'; allowed: a whole number"),
        (", seed: 1.5", "market 'demo': source: seed: found 1.5; allowed: a whole number"),
        (", seed: true", "market 'demo': source: seed: found True; allowed: a whole number"),
        (", sed: 1", "market 'demo': source: sed: found 1; unknown key; did you mean 'seed'? (allowed: seed)"),
    ],
)
def test_a_wrong_option_is_told(options: str, message: str):
    with pytest.raises(MarketError) as caught:
        DemoSource(market(options=options))
    assert message in str(caught.value)


def test_the_seed_is_one_unless_said_otherwise():
    asked = [request("BTC/USD", Timeframe.D1, "2024-01-01", "2024-02-01")]
    assert_same(next(DemoSource(market(options="")).fetch(asked, NOW)).candles, fetched(asked)[0].candles)


def test_a_long_history_of_many_instruments_arrives_bit_by_bit():
    requests = [request(f"X{n}", Timeframe.m1, "2023-01-01", "2025-01-01") for n in range(500)]
    started = time.process_time()
    first = next(DemoSource(market()).fetch(requests, LATE))
    assert len(first.candles) == 731 * 1440
    # One instrument's minutes, not five hundred's: those take half a minute, and longer on a busy machine.
    assert time.process_time() - started < 10


def test_a_demo_markets_first_history_takes_little_time():
    lengths = {Timeframe.m5: 3, Timeframe.m15: 10, Timeframe.H1: 30, Timeframe.H4: 90, Timeframe.D1: 365}
    end = instant(NOW)
    requests = [
        Request(Series(name, timeframe), end - np.timedelta64(days, "D"), end)
        for timeframe, days in lengths.items()
        for name in CATALOG
    ]
    started = time.process_time()
    found = fetched(requests, now=NOW)
    assert time.process_time() - started < 6
    assert {len(each.candles) for each in found} == {863, 959, 719, 539, 364}


def test_the_newest_candles_of_hundreds_of_series_take_a_millisecond_each():
    end = instant(NOW)
    for timeframe in (Timeframe.m1, Timeframe.m5, Timeframe.m15, Timeframe.H1):
        since = end - np.timedelta64(12 * timeframe.minutes, "m")
        requests = [Request(Series(f"X{n}", timeframe), since, end) for n in range(150)]
        started = time.process_time()
        found = fetched(requests, now=NOW)
        # Ten times as many on a busy machine.
        assert time.process_time() - started < 1.5
        assert {len(each.candles) for each in found} == {11}
