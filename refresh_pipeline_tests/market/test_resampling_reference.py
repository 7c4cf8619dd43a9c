"""Longer candles made from shorter ones, held against the longer ones where both are known."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.resampling import resample
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, Request
from refresh_pipeline.sources.demo import DemoSource
from refresh_pipeline.sources.fetching import fetch

# Long past every session, a change of the clocks in New York among them.
NOW = datetime(2024, 4, 2, 12, 0, tzinfo=UTC)
SINCE, UNTIL = "2024-02-26", "2024-04-01"


def market(calendar: str) -> Market:
    return parse_market(
        f"{{name: d, source: {{kind: demo}}, calendar: {calendar}, instruments: [EUR/USD], "
        f"timeframes: [{', '.join(Timeframe)}], history: 1d}}",
        "d.yaml",
    )


class Shorter(DemoSource):
    """The simulation as a source that has one timeframe alone."""

    def __init__(self, it: Market, timeframe: Timeframe) -> None:
        super().__init__(it)
        self.native_timeframes = (timeframe,)


def of(chunks: list[Fetched]) -> Candles:
    return Candles.concatenated([each.candles for each in chunks if len(each.candles)])


@pytest.mark.parametrize("calendar", sorted(CALENDARS))
@pytest.mark.parametrize(
    ("base", "longer"),
    [
        (Timeframe.m5, [Timeframe.m15, Timeframe.m30, Timeframe.H1, Timeframe.H4]),
        (Timeframe.m15, [Timeframe.H1, Timeframe.H2, Timeframe.H6, Timeframe.H8, Timeframe.D1]),
        (Timeframe.D1, [Timeframe.W1, Timeframe.MN1]),
    ],
)
def test_bars_made_from_shorter_ones_are_those_that_the_venue_has(
    calendar: str, base: Timeframe, longer: list[Timeframe]
) -> None:
    it = market(calendar)
    for timeframe in longer:
        request = Request(Series("EUR/USD", timeframe), instant(SINCE), instant(UNTIL))
        made = of(list(fetch(Shorter(it, base), it, [request], NOW)))
        known = of(list(DemoSource(it).fetch([request], NOW)))
        # A month that began before the stretch is made whole all the same.
        assert list(made.open_time) == list(known.open_time), timeframe
        for name in CANDLE_COLUMNS:
            assert np.array_equal(made[name], known[name]), (timeframe, name)


def recorded(path: Path) -> Candles:
    columns = ", ".join(CANDLE_COLUMNS)
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        rows = connection.execute(
            f"select epoch_us(time::timestamptz) as t, {columns} from read_parquet(?) order by time", [str(path)]
        ).fetchnumpy()
    times = rows.pop("t").astype(np.int64).astype("datetime64[us]")
    return Candles(times, {name: rows[name].astype(np.float64) for name in CANDLE_COLUMNS}).sorted()


def test_hours_made_from_coinbases_minutes_are_about_coinbases_hours(candle_folder: Path) -> None:
    # Two recordings of one exchange by different people: most prices to the cent, the others next to it.
    minutes, hours = (recorded(candle_folder / f"coinbase_BTCUSD_{name}.parquet") for name in ("1m_201804", "1h"))
    made = resample(minutes, Timeframe.H1, CALENDARS["crypto"])
    _, ours, theirs = np.intersect1d(made.open_time, hours.open_time, return_indices=True)
    counts = np.unique(CALENDARS["crypto"].floor(Timeframe.H1, minutes.open_time), return_counts=True)[1]
    whole = counts[ours] == 60
    assert whole.sum() > 60
    for name in ("open", "high", "low", "close"):
        apart = np.abs(made[name][ours] - hours[name][theirs])[whole]
        assert (apart < 0.011).mean() > 0.8, name
        assert (apart / hours[name][theirs][whole]).max() < 0.002, name
