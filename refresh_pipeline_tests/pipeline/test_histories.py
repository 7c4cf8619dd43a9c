"""Whatever changes at a venue, a refresh makes the warehouse equal to a fresh one: corrections, holes, withdrawals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from typer.testing import CliRunner

from refresh_pipeline.cli.app import app
from refresh_pipeline.market.candles import TIME_UNIT, Candles, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline import backfill, compute, fetch
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.sources import Fetched, Request
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.forgetting import Choice
from refresh_pipeline.warehouse.outcomes import Attempt
from refresh_pipeline.warehouse.warehouse import Warehouse

NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
FIRST = np.datetime64("2026-05-27T00:00", "us")
M15, H4 = Series("BTC/USD", Timeframe.m15), Series("BTC/USD", Timeframe.H4)
MARKET = """
name: histories
source: {kind: files, directory: candles}
calendar: crypto
instruments: [BTC/USD]
timeframes: [m15, H4]
history: 5d
indicators: {compute: [sma_10, mfi]}
"""
QUARTER = np.timedelta64(15, "m")


@dataclass
class Venue:
    """A venue of quarters of an hour, whose candles a test changes."""

    candles: dict[np.datetime64, list[float]] = field(default_factory=dict)
    kind: str = "venue"
    native_timeframes: Sequence[Timeframe] = (Timeframe.m15,)
    asked: list[Request] = field(default_factory=list)

    @classmethod
    def of(cls, count: int = 1000) -> "Venue":
        """Candles that all differ."""
        return cls({FIRST + number * QUARTER: candle(number) for number in range(count)})

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        """All closed candles of each request."""
        for request in requests:
            self.asked.append(request)
            until = min(request.until, instant(now) - QUARTER + np.timedelta64(1, "us"))
            times = [time for time in sorted(self.candles) if request.since <= time < until]
            rows = np.array([self.candles[time] for time in times]).reshape(-1, 5).T
            columns = dict(zip(("open", "high", "low", "close", "volume"), rows, strict=True))
            yield Fetched(request.series, Candles.of(np.array(times, dtype=TIME_UNIT), **columns))


def candle(number: int, scale: float = 1.0) -> list[float]:
    price = 100 + 10 * np.sin(number / 7) + number % 5
    return [price * scale, (price + 2) * scale, (price - 2) * scale, (price + 1) * scale, 1.0 + number % 3]


@pytest.fixture
def market() -> Market:
    """Quarters of an hour, and four hours made from them."""
    return parse_market(MARKET, "histories.yaml")


@dataclass
class Desk:
    """A warehouse and the venue that fills it."""

    warehouse: Warehouse
    market: Market
    venue: Venue

    def refresh(self, now: datetime = NOW, since: datetime | None = None) -> dict[Series, Attempt]:
        """What `refresh once` does, without Dagster."""
        # Opening the file takes longer than most calls.
        with self.warehouse.session():
            self.warehouse.prepare(self.market)
            batch = self.market.series
            return fetch.refresh_candles(self.warehouse, self.market, self.venue, batch, now, gaps={}, since=since)

    def backfill(self, now: datetime = NOW) -> dict[Series, Attempt]:
        """What `refresh backfill` does, without Dagster."""
        with self.warehouse.session():
            return backfill.backfill(self.warehouse, self.market, self.venue, self.market.series, now)

    def compute(self) -> None:
        with self.warehouse.session():
            for table in computations(self.market):
                compute.compute(self.warehouse, self.market, table, self.market.series)

    def rows(self, table: str = "raw_candles") -> list[tuple[object, ...]]:
        """The table's rows but for their provenance."""
        columns = "* exclude (source, fetched_at)" if table == "raw_candles" else "*"
        query = f"select {columns} from histories.{table} order by instrument, timeframe, open_time"
        with self.warehouse.reader() as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a warehouse after its first refresh."""
    path = tmp_path_factory.mktemp("histories") / "refresh.duckdb"
    desk = Desk(Warehouse(path), parse_market(MARKET, "histories.yaml"), Venue.of())
    desk.refresh()
    desk.compute()
    return path


@pytest.fixture
def desk(market: Market, original: Path, tmp_path: Path) -> Desk:
    """A warehouse after its first refresh."""
    path = tmp_path / "refresh.duckdb"
    path.write_bytes(original.read_bytes())
    return Desk(Warehouse(path), market, Venue.of())


def fresh(desk: Desk, folder: Path, now: datetime = NOW) -> Desk:
    """A new warehouse of the same venue; its history starts where the other one's does."""
    other = Desk(Warehouse(folder / "fresh.duckdb"), desk.market, desk.venue)
    other.refresh(now, since=NOW - timedelta(days=5))
    return other


def assert_equal(desk: Desk, other: Desk) -> None:
    assert desk.rows() == other.rows()
    for each in (desk, other):
        each.compute()
    for table in ("enhanced_candles", "indicators"):
        mine, theirs = desk.rows(table), other.rows(table)
        assert [row[:3] for row in mine] == [row[:3] for row in theirs]
        numbers = [[[v if isinstance(v, float) else 0.0 for v in row] for row in rows] for rows in (mine, theirs)]
        np.testing.assert_allclose(*(np.array(rows) for rows in numbers), rtol=1e-9)


# ---- corrections deeper than the candles that are read again


def test_a_split_is_followed_back_to_the_first_candle(desk: Desk, tmp_path: Path) -> None:
    desk.venue.candles = {time: candle(n, 0.5) for n, time in enumerate(desk.venue.candles)}
    done = desk.refresh()
    assert done[M15].metadata["correction"] == "A correction was followed back to 2026-05-27T12:00:00Z."
    assert done[M15].rows_revised == 480
    assert_equal(desk, fresh(desk, tmp_path))


def test_a_correction_is_followed_back_until_stored_and_sent_agree(desk: Desk, tmp_path: Path) -> None:
    changed = instant(NOW) - 100 * QUARTER
    desk.venue.candles = {time: candle(n, 0.5 if time >= changed else 1.0) for n, time in enumerate(desk.venue.candles)}
    desk.venue.asked.clear()
    assert desk.refresh()[M15].rows_revised == 99
    assert_equal(desk, fresh(desk, tmp_path))
    assert min(each.since for each in desk.venue.asked[:-1]) > FIRST + np.timedelta64(1, "D")


def test_a_stretch_without_candles_does_not_end_the_way_back(desk: Desk, tmp_path: Path) -> None:
    for number, time in enumerate(list(desk.venue.candles)):
        desk.venue.candles[time] = candle(number, 0.5)
        if np.datetime64("2026-05-31T10:00") < time < np.datetime64("2026-06-01T09:30"):
            del desk.venue.candles[time]
    desk.refresh(since=NOW - timedelta(minutes=150))
    with desk.warehouse.reader() as connection:
        query = "select high from histories.raw_candles where open_time = '2026-05-28' and timeframe = 'm15'"
        assert connection.execute(query).fetchall() == [(desk.venue.candles[np.datetime64("2026-05-28", "us")][1],)]


def test_the_way_back_has_a_limit_that_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FOLLOWED_BACK_AT_MOST", 60)
    desk.venue.candles = {time: candle(n, 0.5) for n, time in enumerate(desk.venue.candles)}
    told = str(desk.refresh()[M15].metadata["correction"])
    assert told.startswith("A correction was followed back to 2026-05-3")
    assert "the limit of 60 candles is reached. Run `refresh once --since 2026-05-27T12:00:00Z` for the rest." in told


def test_a_correction_of_a_newer_candle_asks_for_nothing_more(desk: Desk) -> None:
    desk.venue.candles[np.datetime64("2026-06-01T11:00", "us")] = candle(7, 0.5)
    desk.venue.asked.clear()
    assert "correction" not in desk.refresh()[M15].metadata
    assert len(desk.venue.asked) == 1


def test_a_slow_venues_candles_were_not_known_before_they_were_stored(desk: Desk, tmp_path: Path) -> None:
    class Slow(Venue):
        def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
            sleep(0.05)
            yield from super().fetch(requests, now)

    other = Desk(Warehouse(tmp_path / "slow.duckdb"), desk.market, Slow(desk.venue.candles))
    other.refresh()
    with other.warehouse.reader() as connection:
        [(first,)] = connection.execute("select min(fetched_at) from histories.raw_candles").fetchall()
    assert first >= NOW.replace(tzinfo=None) + timedelta(seconds=0.05)


# ---- what is made from candles that change


def h4_rows(desk: Desk, where: str) -> list[tuple[object, ...]]:
    with desk.warehouse.reader() as connection:
        query = "select high, volume, base_bars, complete from histories.raw_candles where timeframe = 'H4' and "
        return connection.execute(query + where).fetchall()


def without(venue: Venue, first: str, last: str) -> Venue:
    times = [time for time in venue.candles if not np.datetime64(first) <= time <= np.datetime64(last)]
    return Venue({time: venue.candles[time] for time in times})


def test_a_hole_filled_late_reaches_the_longer_candles_made_from_it(market: Market, tmp_path: Path) -> None:
    venue = Venue.of()
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), market, without(venue, "2026-05-28T09:00", "2026-05-28T10:45"))
    desk.refresh()
    assert [row[2:] for row in h4_rows(desk, "open_time = '2026-05-28 08:00'")] == [(8, False)]
    desk.venue = venue
    desk.backfill()
    assert [row[2:] for row in h4_rows(desk, "open_time = '2026-05-28 08:00'")] == [(16, True)]
    assert_equal(desk, fresh(desk, tmp_path))


def test_a_longer_candle_whose_base_is_missing_as_a_whole_comes_with_the_base(market: Market, tmp_path: Path) -> None:
    venue = Venue.of()
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), market, without(venue, "2026-05-28T07:00", "2026-05-28T12:45"))
    desk.refresh()
    desk.venue = venue
    desk.backfill()
    assert desk.rows() == fresh(desk, tmp_path).rows()


def test_a_rejected_candle_is_left_out_of_the_longer_one(market: Market, tmp_path: Path) -> None:
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), market, Venue.of())
    time = np.datetime64("2026-05-28T09:00", "us")
    good, desk.venue.candles[time] = desk.venue.candles[time], [0.0] * 5
    desk.refresh()
    assert [row[2:] for row in h4_rows(desk, "open_time = '2026-05-28 08:00'")] == [(15, False)]
    desk.venue.candles[time] = good
    desk.backfill()
    assert desk.rows() == fresh(desk, tmp_path).rows()


def test_the_bases_of_longer_candles_are_read_again_with_them(desk: Desk, tmp_path: Path) -> None:
    desk.venue.candles[np.datetime64("2026-05-31T09:00", "us")] = candle(3, 2.0)
    desk.refresh()
    assert desk.rows() == fresh(desk, tmp_path).rows()


def test_a_candle_corrected_at_any_depth_is_found_by_asking_again(desk: Desk, tmp_path: Path) -> None:
    desk.venue.candles[np.datetime64("2026-05-28T09:00", "us")] = candle(3, 2.0)
    desk.refresh(since=NOW - timedelta(days=5))
    assert_equal(desk, fresh(desk, tmp_path))


OVER_A_WEEKEND = MARKET.replace("history: 5d", "history: 12d").replace("[BTC/USD]", "{BTC/USD: {class: metal}}")


@pytest.mark.parametrize(
    "changed",
    [OVER_A_WEEKEND.replace("crypto", "fx"), OVER_A_WEEKEND.replace("crypto", "{name: crypto, closed: [2026-05-29]}")],
)
def test_longer_candles_follow_the_calendar(tmp_path: Path, changed: str) -> None:
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), parse_market(OVER_A_WEEKEND, "histories.yaml"), Venue.of())
    desk.refresh()
    desk.market = parse_market(changed, "histories.yaml")
    desk.refresh()
    assert longer(desk) == longer(anew(desk, tmp_path))


def test_the_class_of_an_instrument_decides_which_longer_candles_are_complete(tmp_path: Path) -> None:
    def market_of(asset_class: str) -> Market:
        return parse_market(OVER_A_WEEKEND.replace("crypto", "fx").replace("metal", asset_class), "histories.yaml")

    # Metals rest for an hour after 17:00 New York.
    candles = {time: row for time, row in Venue.of().candles.items() if str(time)[11:13] != "21"}
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), market_of("currency"), Venue(candles))
    desk.refresh()
    before, desk.market = longer(desk), market_of("metal")
    desk.refresh()
    assert before != longer(desk) == longer(anew(desk, tmp_path))


def test_the_opening_range_follows_the_class_that_an_instrument_gets_later(tmp_path: Path) -> None:
    # After Christmas pairs open at 19:00 New York, metals at 18:00.
    now, first = datetime(2025, 12, 26, 6, 0, 30, tzinfo=UTC), np.datetime64("2025-12-25T22:30", "us")
    yaml = MARKET.replace("crypto", "fx").replace("m15, H4", "m15").replace("sma_10, mfi", "sma_10, sessions")
    yaml = yaml.replace("[BTC/USD]", "{BTC/USD: {class: currency}, ETH/USD: {class: metal}}")
    candles = {np.add(first, number * QUARTER): candle(number) for number in range(30)}
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), parse_market(yaml, "histories.yaml"), Venue(candles))

    def ranges() -> dict[str, float]:
        desk.refresh(now)
        desk.compute()
        with desk.warehouse.reader() as connection:
            query = (
                "select instrument, opening_range_high from histories.indicators where open_time = '2025-12-26 05:30'"
            )
            return dict(connection.execute(query).fetchall())

    highs = {hour: max(candles[np.datetime64(f"{hour}:{minute}", "us")][1] for minute in ("00", "15"))
             for hour in ("2025-12-25T23", "2025-12-26T00")}  # fmt: skip
    metal, currency = highs["2025-12-25T23"], highs["2025-12-26T00"]
    assert ranges() == pytest.approx({"BTC/USD": currency, "ETH/USD": metal})
    desk.market = parse_market(yaml.replace("currency", "index").replace("metal", "currency"), "histories.yaml")
    assert ranges() == pytest.approx({"BTC/USD": metal, "ETH/USD": currency})


def anew(desk: Desk, folder: Path) -> Desk:
    """A new warehouse of the same venue and market."""
    other = Desk(Warehouse(folder / "fresh.duckdb"), desk.market, desk.venue)
    other.refresh()
    return other


def longer(desk: Desk) -> list[tuple[object, ...]]:
    """The longer candles."""
    return [row for row in desk.rows() if row[1] == "H4"]


def test_timeframes_that_disagree_are_reported(desk: Desk) -> None:
    def faults() -> list[str]:
        found = candle_verdicts(desk.warehouse, desk.market, NOW, ["timeframes_agree"])["timeframes_agree"]
        return [f"{fault.series} {str(fault.open_time)[:13]}: {fault.what}" for fault in found.faults]

    assert faults() == []
    with desk.warehouse.get_connection() as connection:
        connection.execute(
            "update histories.raw_candles set high = high * 2 "
            "where timeframe = 'm15' and open_time = '2026-06-01 05:00'"
        )
    assert faults() == ["BTC/USD H4 2026-06-01T04: high is 114.254, its m15 candles give 218.732"]


@pytest.mark.parametrize(("factor", "count"), [(1.04, 0), (1.06, 1)])
def test_native_candles_of_two_lengths_agree_within_what_sources_may_differ(
    desk: Desk, factor: float, count: int
) -> None:
    with desk.warehouse.get_connection() as connection:
        connection.execute(
            "update histories.raw_candles set high = high * ?, base_bars = null, complete = null "
            "where timeframe = 'H4' and open_time = '2026-06-01 04:00'",
            [factor],
        )
    verdict = candle_verdicts(desk.warehouse, desk.market, NOW, ["timeframes_agree"])["timeframes_agree"]
    assert (len(verdict.faults), verdict.examined > 1) == (count, True)


# ---- candles that the venue no longer has


HOUR = timedelta(hours=1)


def test_a_candle_that_is_gone_is_withdrawn_after_two_answers_an_hour_apart(desk: Desk, tmp_path: Path) -> None:
    for gone in ("2026-05-29T09:00", "2026-06-01T10:15"):
        del desk.venue.candles[np.datetime64(gone, "us")]
    since = NOW - timedelta(days=5)
    assert desk.refresh(since=since)[M15].rows_added == 0
    assert "rows_withdrawn" not in desk.refresh(NOW + timedelta(minutes=50))[M15].metadata
    done = desk.refresh(NOW + HOUR)
    assert done[M15].metadata["rows_withdrawn"] == 2
    assert_equal(desk, fresh(desk, tmp_path, NOW + HOUR))
    assert len(desk.rows("raw_candle_revisions")) == 4
    assert [(gap.series, str(gap.first)[:16]) for gap in desk.warehouse.gaps(desk.market, NOW + HOUR)] == [
        (M15, "2026-05-29T09:00"),
        (M15, "2026-06-01T10:15"),
    ]


def test_a_candle_that_was_missed_while_the_clock_was_ahead_is_withdrawn_an_hour_after_it_is_right(desk: Desk) -> None:
    del desk.venue.candles[np.datetime64("2026-06-01T10:15", "us")]
    desk.refresh()
    with desk.warehouse.get_connection() as connection:
        ahead = "first_missed_at + interval 26 hour"
        connection.execute(f"update histories.missed_candles set first_missed_at = {ahead}, asked_at = {ahead}")
    desk.refresh(NOW + timedelta(minutes=1))
    assert desk.refresh(NOW + timedelta(minutes=62))[M15].metadata["rows_withdrawn"] == 1


@pytest.mark.parametrize("hours", [3, 26])
def test_candles_of_a_clock_that_was_ahead_do_not_stop_the_market(market: Market, tmp_path: Path, hours: int) -> None:
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), market, Venue.of())
    desk.refresh(NOW - timedelta(hours=2))
    desk.refresh(NOW + hours * HOUR)
    # The venue corrects a candle that is the newest one once the clock is right.
    desk.venue.candles[np.datetime64("2026-06-01T11:45", "us")] = candle(3, 2.0)
    assert desk.refresh(NOW)[M15].rows_revised == 1


@dataclass
class RightVenue(Venue):
    """A venue that goes by the right time, whatever the machine's clock says."""

    clock: datetime = NOW

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        yield from super().fetch(requests, self.clock)


@pytest.mark.parametrize("timeframes", ["m15, H4, D1, W1", "H4, D1"])
def test_longer_candles_of_a_clock_that_was_ahead_are_withdrawn_by_the_next_refresh(
    tmp_path: Path, timeframes: str
) -> None:
    market = parse_market(MARKET.replace("m15, H4", timeframes).replace("5d", "12d"), "histories.yaml")
    early, now = NOW - timedelta(minutes=80), NOW - timedelta(minutes=50)
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), market, RightVenue(Venue.of().candles, clock=early))
    desk.refresh(early)
    desk.compute()
    count = len(desk.rows())
    desk.refresh(early + timedelta(hours=26))
    desk.compute()
    # The H4 and the D1 bar of the true time.
    ahead = len(desk.rows()) - count
    assert ahead == 2
    desk.venue = RightVenue(desk.venue.candles, clock=now)
    done = desk.refresh(now)
    assert sum(int(str(each.metadata.get("rows_withdrawn", 0))) for each in done.values()) == ahead
    # A refresh of the past takes no candle that has closed.
    desk.refresh(now - timedelta(hours=9))
    other = Desk(Warehouse(tmp_path / "fresh.duckdb"), market, desk.venue)
    other.refresh(now)
    assert_equal(desk, other)
    assert desk.warehouse.chosen_candles(market, Choice(closing_after=now)) == {}


def test_a_series_with_nothing_but_candles_of_the_future_begins_with_its_history(
    market: Market, tmp_path: Path
) -> None:
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), market, Venue.of(3000))
    desk.refresh(NOW + timedelta(days=20))
    assert desk.refresh(NOW)[M15].rows_added == 480


def test_a_longer_candle_goes_with_the_last_of_its_base(desk: Desk, tmp_path: Path) -> None:
    desk.venue = without(desk.venue, "2026-05-29T08:00", "2026-05-29T11:45")
    for hours in (0, 1):
        desk.refresh(NOW + hours * HOUR, since=NOW - timedelta(days=5))
    assert h4_rows(desk, "open_time = '2026-05-29 08:00'") == []
    assert_equal(desk, fresh(desk, tmp_path, NOW + HOUR))


def test_a_candle_that_comes_again_is_not_withdrawn(desk: Desk) -> None:
    before, everything = desk.rows(), dict(desk.venue.candles)
    del desk.venue.candles[np.datetime64("2026-06-01T10:15", "us")]
    desk.refresh()
    desk.venue.candles = everything
    desk.refresh(NOW + timedelta(seconds=30))
    desk.refresh(NOW + HOUR)
    assert desk.rows()[: len(before) // 2] == before[: len(before) // 2]
    assert desk.rows("missed_candles") == []
    assert [row for row in desk.rows("raw_candle_revisions") if row[1] == "m15"] == []


def test_the_edges_of_an_answer_are_never_withdrawn(desk: Desk) -> None:
    count = len(desk.rows())
    desk.venue = without(desk.venue, "2026-05-27T00:00", "2026-05-28T00:00")
    desk.venue = without(desk.venue, "2026-06-01T11:30", "2026-06-02T00:00")
    for hours in (0, 1, 2):
        desk.refresh(NOW + hours * HOUR, since=NOW - timedelta(days=5))
    assert len(desk.rows()) == count


@pytest.mark.parametrize("seed", range(2))
def test_whatever_changes_at_the_venue_the_warehouse_equals_a_fresh_one(
    market: Market, tmp_path: Path, seed: int
) -> None:
    random = np.random.default_rng(seed)
    desk = Desk(Warehouse(tmp_path / "refresh.duckdb"), market, Venue.of())
    whole = dict(desk.venue.candles)
    late = random.choice(np.arange(60, 440), 8, replace=False)
    desk.venue.candles = {time: row for n, (time, row) in enumerate(whole.items()) if n - 48 not in late}
    desk.refresh()
    desk.venue.candles = whole
    # The first and the last candle stay: they are an answer's edges.
    other, gone = np.split(random.choice(np.arange(60, 440), 8, replace=False) + 48, 2)
    for number, time in enumerate(list(whole)):
        if number in gone:
            del whole[time]
        elif number in other:
            whole[time] = candle(number, 1 + random.random())
        elif number >= 500 and seed % 2:
            whole[time] = candle(number, 0.5)
    desk.backfill()
    for hours in (0, 1):
        desk.refresh(NOW + hours * HOUR, since=NOW - timedelta(days=5))
    assert desk.rows() == fresh(desk, tmp_path, NOW + HOUR).rows()


# ---- candles that somebody forgets


def test_a_forgotten_stretch_goes_from_every_table_and_comes_again(desk: Desk, tmp_path: Path) -> None:
    choice = Choice("BTC/USD", "m15", NOW - timedelta(days=2), NOW - timedelta(days=1))
    assert desk.warehouse.chosen_candles(desk.market, choice) == {M15: 96}
    assert desk.warehouse.forget(desk.market, choice, NOW) == {M15: 96}
    desk.compute()
    assert len(desk.rows("indicators")) == len(desk.rows()) == 384 + 25
    desk.backfill()
    assert_equal(desk, fresh(desk, tmp_path))


def test_longer_candles_are_made_again_when_a_stretch_of_their_base_is_forgotten(desk: Desk) -> None:
    assert h4_rows(desk, "open_time = '2026-05-29 08:00'")[0][2:] == (16, True)
    day = datetime(2026, 5, 29, tzinfo=UTC)
    desk.warehouse.forget(desk.market, Choice("BTC/USD", "m15", day + 2 * HOUR, day + 9 * HOUR), NOW)
    assert h4_rows(desk, "open_time = '2026-05-29 08:00'")[0][2:] == (12, False)
    assert h4_rows(desk, "open_time = '2026-05-29 00:00'")[0][2:] == (8, False)
    assert h4_rows(desk, "open_time = '2026-05-29 04:00'") == []


def test_the_newest_candles_can_be_forgotten(desk: Desk) -> None:
    assert desk.warehouse.forget(desk.market, Choice("BTC/USD", "m15", NOW - timedelta(days=1)), NOW) == {M15: 95}
    desk.compute()
    assert len(desk.rows("indicators")) == len(desk.rows())


def test_an_instrument_that_left_the_yaml_is_an_orphan_until_it_is_forgotten(desk: Desk) -> None:
    desk.market = parse_market(MARKET.replace("BTC/USD", "ETH/USD"), "histories.yaml")
    desk.warehouse.prepare(desk.market)
    assert desk.warehouse.chosen_candles(desk.market, Choice(orphans=True)) == {H4: 30, M15: 480}
    assert sum(desk.warehouse.forget(desk.market, Choice("BTC/USD"), NOW).values()) == 510
    assert desk.warehouse.chosen_candles(desk.market, Choice(orphans=True)) == {}
    assert desk.rows("indicators") == desk.rows("checkpoints") == []


def test_candles_off_the_grid_can_be_forgotten_alone(desk: Desk) -> None:
    with desk.warehouse.get_connection() as connection:
        connection.execute(
            "update histories.raw_candles set open_time = open_time + interval 13 second "
            "where timeframe = 'm15' and open_time = '2026-06-01 05:00'"
        )
    assert desk.warehouse.forget(desk.market, Choice(off_grid=True), NOW) == {M15: 1}


def test_the_command_lists_asks_and_forgets(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "histories.yaml").write_text(MARKET)
    monkeypatch.setenv("REFRESH_MARKETS_DIR", str(tmp_path))
    words = ["forget", "--market", "histories", "--data-dir", str(tmp_path), "--timeframe", "4h"]
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, len(desk.rows())) == (2, 510)
    assert "BTC/USD H4: 30 candles" in refused.output
    assert "30 candles of 1 series forgotten" in CliRunner().invoke(app, [*words, "--yes"]).output
    assert len(desk.rows()) == 480


def test_the_command_asks_before_it_forgets_candles_that_close_later_than_now(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "histories.yaml").write_text(MARKET)
    monkeypatch.setenv("REFRESH_MARKETS_DIR", str(tmp_path))
    words = ["forget", "--market", "histories", "--data-dir", str(tmp_path), "--future"]
    words += ["--now", (NOW - timedelta(minutes=30)).isoformat()]
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, len(desk.rows())) == (2, 510)
    assert "BTC/USD m15: 2 candles" in refused.output
    assert "3 candles of 2 series forgotten" in CliRunner().invoke(app, [*words, "--yes"]).output
    assert "nothing is stored that matches" in CliRunner().invoke(app, words).output
