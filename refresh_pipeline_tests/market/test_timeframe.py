"""The names of timeframes, their order, and which fill which."""

import numpy as np
import pytest

from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.timeframe import LONG_NAMES, Timeframe, UnknownTimeframe, _intraday_names

# What people write, by hand: the table in the code is not asked what it thinks of itself.
SPELLINGS = {
    "m1": ("m1", "1m", "1min", "1T", "1", "1minute", "mi1", "1 min", "MI1", "1MIN"),
    "m5": ("m5", "5m", "5min", "5T", "5", "M5", "5M", "mi5", "5minutes", "m-5", "m_5"),
    "m15": ("m15", "15m", "15min", "15T", "15", "M15", "15 minutes"),
    "m30": ("m30", "30m", "30min", "30T", "30", "M30"),
    "H1": ("H1", "1h", "1H", "60", "h1", "60m", "60min", "1hour", "1hr", "M60"),
    "H2": ("H2", "2h", "2H", "120", "h2", "120min", "2hours"),
    "H3": ("H3", "3h", "3H", "180", "h3"),
    "H4": ("H4", "4h", "4H", "240", "h4", "240m"),
    "H6": ("H6", "6h", "6H", "360", "h6"),
    "H8": ("H8", "8h", "8H", "480", "h8"),
    "D1": ("D1", "1d", "1D", "d1", "D", "d", "daily", "1day", "24h", "1440", "day"),
    "W1": ("W1", "1w", "1W", "w1", "W", "w", "weekly", "1week", "7d", "week"),
    "MN1": ("MN1", "1M", "1mo", "mn1", "M", "1month", "monthly", "1MO", "mo1", "month", "1 M", "MN-1"),
}


@pytest.mark.parametrize(("canonical", "text"), [(name, text) for name, texts in SPELLINGS.items() for text in texts])
def test_every_usual_spelling_means_its_timeframe(canonical: str, text: str):
    assert Timeframe.parse(text).value == canonical
    assert Timeframe.parse(f"  {text} ").value == canonical


def test_every_timeframe_has_spellings_here():
    assert list(SPELLINGS) == [timeframe.value for timeframe in Timeframe]


@pytest.mark.parametrize("text", ["M1", " M1 ", "M 1", "M-1", "M_1"])
def test_m1_alone_is_refused_and_both_readings_are_named(text: str):
    with pytest.raises(UnknownTimeframe, match=r"'m1'.*one minute.*'MN1'.*one month"):
        Timeframe.parse(text)


def test_a_small_m_is_a_minute_and_a_capital_one_a_month():
    assert (Timeframe.parse("1m"), Timeframe.parse("1M")) == (Timeframe.m1, Timeframe.MN1)
    assert (Timeframe.parse("1 m"), Timeframe.parse("1 M")) == (Timeframe.m1, Timeframe.MN1)


@pytest.mark.parametrize("text", ["", "m7", "2d", "-5m", "M0", "H", "None", "1s", "m", "60h", "٥m"])
def test_an_unknown_name_is_refused_with_what_is_allowed(text: str):
    with pytest.raises(UnknownTimeframe, match=r"allowed: m1, m5, m15, m30, H1, H2, H3, H4, H6, H8, D1, W1, MN1"):
        Timeframe.parse(text)


def test_a_near_miss_is_told_what_it_may_have_meant():
    with pytest.raises(UnknownTimeframe, match="did you mean W1"):
        Timeframe.parse("weeklyy")


def test_no_name_belongs_to_two_timeframes():
    names = {t: {t.value, *(LONG_NAMES.get(t) or _intraday_names(t.minutes))} for t in Timeframe}
    for one in Timeframe:
        for other in Timeframe:
            assert one is other or not names[one] & names[other]


def test_timeframes_sort_from_short_to_long():
    shuffled = [Timeframe.W1, Timeframe.m5, Timeframe.D1, Timeframe.m30, Timeframe.H8]
    assert [t.value for t in sorted(shuffled)] == ["m5", "m30", "H8", "D1", "W1"]
    assert [t for t in Timeframe if t < Timeframe.H1] == [Timeframe.m1, Timeframe.m5, Timeframe.m15, Timeframe.m30]
    assert max(Timeframe) is Timeframe.MN1
    assert Timeframe.D1 >= Timeframe.D1 > Timeframe.m1


def test_only_what_is_shorter_than_a_day_is_intraday():
    assert [t for t in Timeframe if not t.is_intraday] == [Timeframe.D1, Timeframe.W1, Timeframe.MN1]


@pytest.mark.parametrize("calendar", CALENDARS.values(), ids=CALENDARS.keys())
@pytest.mark.parametrize("longer", [t for t in Timeframe if t > Timeframe.m1])
def test_bars_that_divide_a_longer_one_begin_where_it_begins(calendar, longer: Timeframe):
    opens = calendar.open_times(longer, np.datetime64("2023-12-01"), np.datetime64("2024-12-15"))
    for shorter in Timeframe:
        if shorter.divides(longer):
            assert (calendar.floor(shorter, opens) == opens).all(), shorter


def test_what_does_not_fill_a_longer_bar_does_not_divide_it():
    pairs = {(a.value, b.value) for a in Timeframe for b in Timeframe if a < b and not a.divides(b)}
    assert pairs == {("H2", "H3"), ("H3", "H4"), ("H3", "H8"), ("H4", "H6"), ("H6", "H8"), ("W1", "MN1")}
    assert not any(a.divides(a) for a in Timeframe)
    assert not any(a.divides(b) for a in Timeframe for b in Timeframe if a > b)
