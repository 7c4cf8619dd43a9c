"""History that is missing is asked for once, and nothing that is stored is asked for again."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pytest

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline import backfill, fetch
from refresh_pipeline.pipeline.progress import watched
from refresh_pipeline.sources import Fetched, Request, TransientError
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline_tests.project_folder import FIRST, NOW, World, command, metadata_of

BTC, ETH = Series("BTC/USD", Timeframe.m15), Series("ETH/USD", Timeframe.m15)
STEP = np.timedelta64(15, "m").astype("timedelta64[us]")


@dataclass
class Venue:
    """Candles at every quarter since `begins`, in chunks of 20, on record what it was asked."""

    begins: datetime = FIRST
    breaks: Sequence[str] = ()
    # The process is gone when so many chunks have been given.
    dies_after: int | None = None
    given: int = 0
    asked: list[Request] = field(default_factory=list)
    kind: str = "venue"
    native_timeframes: Sequence[Timeframe] = tuple(Timeframe)

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        for request in requests:
            self.asked.append(request)
            since = max(request.since, instant(self.begins))
            opens = np.arange(since, max(min(request.until, instant(now)), since), STEP)
            opens = opens[opens + STEP <= instant(now)]
            ones = np.ones(len(opens))
            whole = Candles.of(opens, open=ones + 1, high=ones + 2, low=ones, close=ones, volume=ones)
            for first in range(0, len(opens), 20):
                part = np.isin(np.arange(len(opens)), np.arange(first, first + 20))
                if self.given == self.dies_after:
                    raise KeyboardInterrupt
                self.given += 1
                yield Fetched(request.series, whole.where(part), last=False)
                if request.series.instrument in self.breaks:
                    yield Fetched(request.series, Candles.none(), error=TransientError("broke off"))
                    break
            else:
                yield Fetched(request.series, Candles.none())

    @property
    def spans(self) -> list[tuple[str, str, str]]:
        return [(r.series.instrument[:3], _short(r.since), _short(r.until)) for r in self.asked]


def _short(moment: np.datetime64) -> str:
    return str(moment)[8:16]


def backfilled(
    world: World, venue: Venue, since: datetime | None = FIRST, until: datetime | None = None, *more: Series
) -> dict[Series, Attempt]:
    warehouse, market = world.warehouse, world.market
    warehouse.prepare(market)
    return backfill.backfill(warehouse, market, venue, [BTC, *more], NOW, since=since, until=until)


def stored(world: World, instrument: str = "BTC/USD") -> list[str]:
    rows = world.query(
        "select strftime(open_time, '%dT%H:%M') from bazaar.raw_candles where instrument = ? order by open_time",
        instrument,
    )
    return [row[0] for row in rows]


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-05-{text}+00:00")


def test_an_empty_series_is_asked_for_everything_that_has_closed(new_world: World) -> None:
    venue = Venue()
    done = backfilled(new_world, venue)
    assert venue.spans == [("BTC", "30T12:00", "01T12:00")]
    assert len(stored(new_world)) == 192
    assert (done[BTC].outcome, done[BTC].rows_added) == (Outcome.updated, 192)


def test_earlier_middle_and_later_stretches_are_asked_for_without_what_is_there(new_world: World) -> None:
    venue = Venue()
    backfilled(new_world, venue, at("31T00:00"), at("31T06:00"))
    backfilled(new_world, venue, at("31T09:00"), at("31T10:00"))
    venue.asked.clear()
    done = backfilled(new_world, venue)
    assert venue.spans == [
        ("BTC", "30T12:00", "31T00:00"),
        ("BTC", "31T06:00", "31T09:00"),
        ("BTC", "31T10:00", "01T12:00"),
    ]
    assert len(stored(new_world)) == 192
    assert done[BTC].rows_added == 192 - 24 - 4


def test_what_is_complete_is_not_asked_for_at_all(new_world: World) -> None:
    venue = Venue()
    backfilled(new_world, venue)
    venue.asked.clear()
    assert backfilled(new_world, venue)[BTC].outcome is Outcome.unchanged
    assert venue.asked == []


def test_a_single_missing_candle_is_asked_for_alone(new_world: World) -> None:
    venue = Venue()
    backfilled(new_world, venue)
    new_world.lose_candles("open_time = '2026-05-31 07:15'")
    venue.asked.clear()
    backfilled(new_world, venue)
    assert venue.spans == [("BTC", "31T07:15", "31T07:30")]


def test_what_the_source_does_not_have_is_asked_for_once_in_a_backfill(new_world: World) -> None:
    venue = Venue(begins=at("31T12:00"))
    backfilled(new_world, venue, at("31T18:00"))
    venue.asked.clear()
    done = backfilled(new_world, venue)
    assert venue.spans == [("BTC", "30T12:00", "31T18:00")]
    assert stored(new_world)[0] == "31T12:00"
    assert done[BTC].outcome is Outcome.updated
    venue.asked.clear()
    assert backfilled(new_world, venue)[BTC].outcome is Outcome.unchanged
    assert venue.spans == [("BTC", "30T12:00", "31T12:00")]


def test_without_since_it_goes_as_far_back_as_the_history_of_the_market(new_world: World) -> None:
    venue = Venue()
    backfilled(new_world, venue, None)
    assert venue.spans == [("BTC", "31T12:00", "01T12:00")]


def test_a_series_that_breaks_off_keeps_what_came_and_the_others_go_on(new_world: World) -> None:
    venue = Venue(breaks=["BTC/USD"])
    backfilled(new_world, Venue(), at("31T09:00"), at("31T10:00"), ETH)
    done = backfilled(new_world, venue, FIRST, None, ETH)
    assert (done[BTC].outcome, done[BTC].reason, done[BTC].rows_added) == (Outcome.failed, "broke off", 20)
    assert done[ETH].outcome is Outcome.updated
    assert len(stored(new_world, "ETH/USD")) == 192
    # Its second stretch was left alone.
    assert [instrument for instrument, *_ in venue.spans].count("BTC") == 1
    venue.breaks = ()
    venue.asked.clear()
    backfilled(new_world, venue)
    assert venue.spans[0] == ("BTC", "30T17:00", "31T09:00")
    assert len(stored(new_world)) == 192


@pytest.mark.parametrize("chunks", range(0, 11, 2))
def test_wherever_it_ends_it_goes_on_without_asking_for_what_was_committed(
    new_world: World, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    # Every chunk is committed as it comes; a stretch in the middle is there before.
    monkeypatch.setattr(fetch, "ROWS_AT_ONCE", 20)
    backfilled(new_world, Venue(), at("31T00:00"), at("31T06:00"))
    with suppress(KeyboardInterrupt):
        backfilled(new_world, Venue(dies_after=chunks), FIRST, None, ETH)
    before = {name: set(stored(new_world, name)) for name in ("BTC/USD", "ETH/USD")}
    assert sum(len(each) for each in before.values()) >= 24 + 10 * chunks
    venue = Venue()
    backfilled(new_world, venue, FIRST, None, ETH)
    for request in venue.asked:
        opens = np.arange(request.since, request.until, STEP)
        assert not {_short(each) for each in opens} & before[request.series.instrument]
    assert [len(stored(new_world, name)) for name in ("BTC/USD", "ETH/USD")] == [192, 192]


def test_progress_is_told_in_candles_and_ends_where_all_are_asked_for(new_world: World) -> None:
    told: list[tuple[str, int, int]] = []
    with watched(lambda what, done, total: told.append((what, done, total))):
        backfilled(new_world, Venue(begins=at("31T12:00")))
    assert {(what, total) for what, _, total in told} == {("candles", 192)}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == 192


def test_a_weekend_is_no_gap(new_world: World) -> None:
    yaml = new_world.root / "markets" / "bazaar.yaml"
    yaml.write_text(yaml.read_text().replace("crypto", "fx"))
    venue = Venue()
    # A Saturday and half a Sunday.
    backfilled(new_world, venue, at("30T00:00"), at("31T12:00"))
    assert venue.asked == []


def test_the_launchpad_backfills_with_missing_in_the_config_of_any_job(new_world: World) -> None:
    new_world.run("refresh", ["BTC/USD|m15"])
    new_world.lose_candles("open_time < '2026-06-01 06:00'")
    new_world.change("update bazaar.raw_candles set close = close * 1.0001 where open_time = '2026-06-01 11:45'")
    since = (NOW - timedelta(days=1)).isoformat()
    result = new_world.run("backfill", ["BTC/USD|m15"], since=since, missing_only=True)
    assert result.success
    assert metadata_of(result, "raw_candles")["BTC/USD|m15"]["rows_added"] == 72
    # What was there was not asked for: the changed candle would have been put right.
    assert new_world.query("select count(*) from bazaar.raw_candle_revisions") == [(0,)]
    assert new_world.counts("enhanced_candles") == new_world.counts()


def test_the_command_backfills_a_series_and_says_so(world: World) -> None:
    arguments = ("-i", "BTC/USD", "-t", "m15", "--since", FIRST.isoformat(), "--now", NOW.isoformat())
    before = world.counts()["BTC/USD|m15"]
    result = command("backfill", *arguments)
    assert result.exit_code == 0, result.output
    assert world.counts()["BTC/USD|m15"] == 192 > before
    assert "the publishing schedule writes the export files" in result.output
    with world.dagster() as instance:
        assert instance.get_runs(limit=1)[0].job_name == "bazaar_backfill"


@pytest.mark.parametrize("arguments", [("--since", "yesterday"), ("--since", "2026-06-01", "--until", "2026-05-01")])
def test_a_wrong_stretch_is_a_wrong_request(new_world: World, arguments: tuple[str, ...]) -> None:
    assert command("backfill", *arguments).exit_code == 2
