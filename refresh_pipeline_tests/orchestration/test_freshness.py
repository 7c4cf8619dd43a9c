"""Series that are overdue are asked for again; after a standstill one run makes everything current."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import pytest

from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.orchestration.schedules import tick_request
from refresh_pipeline.orchestration.sensors import overdue, retry_request
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.queries import SeriesReport
from refresh_pipeline_tests.project_folder import NOW, QUIET, World

MARKET = parse_market(
    "{name: day, source: {kind: demo}, calendar: crypto, instruments: [A], timeframes: [m1, D1], history: 30d}", "day"
)
MINUTES, DAYS = MARKET.series
# A quarter of an hour after midnight.
MOMENT = datetime(2026, 6, 2, 0, 15, tzinfo=UTC)


def report(series=DAYS, newest: str | None = "2026-05-31", asked: datetime | None = MOMENT) -> SeriesReport:
    last = None if newest is None else instant(newest)
    at = None if asked is None else instant(asked)
    return SeriesReport(series, 1, last, last, Outcome.unchanged, None, at)


def test_a_day_that_the_venue_had_not_closed_yet_is_asked_for_again_soon_and_then_more_rarely() -> None:
    # The day of the 1st closed at midnight; a first attempt right then found nothing.
    for asked, wait in ((0.2, 1.0), (10, 10), (40, 40), (300, 60)):
        attempted = MOMENT.replace(minute=0) + timedelta(minutes=asked)
        again = overdue(MARKET, [report(asked=attempted)], max(attempted, MOMENT) + timedelta(hours=1))
        assert again == {DAYS: attempted + timedelta(minutes=wait)}


def test_what_is_current_or_just_on_its_way_is_not_overdue() -> None:
    assert overdue(MARKET, [report(newest="2026-06-01")], MOMENT) == {}
    assert overdue(MARKET, [report(MINUTES, "2026-06-02T00:12")], MOMENT) == {}
    assert list(overdue(MARKET, [report(MINUTES, "2026-06-02T00:11")], MOMENT)) == [MINUTES]


def test_a_series_without_any_candle_is_asked_for_every_hour_and_one_that_is_new_at_once() -> None:
    assert overdue(MARKET, [report(newest=None)], MOMENT) == {DAYS: MOMENT + timedelta(hours=1)}
    assert overdue(MARKET, [report(newest=None, asked=None)], MOMENT) == {DAYS: MOMENT}


def test_while_the_market_is_closed_nothing_is_overdue() -> None:
    shares = parse_market(
        "{name: nse, source: {kind: demo}, calendar: nse, instruments: [A], timeframes: [m1], history: 3d}", "nse"
    )
    last = report(shares.series[0], "2026-01-23T09:59", datetime(2026, 1, 23, 10, tzinfo=UTC))
    for moment in ("2026-01-24T08:00", "2026-01-26T08:00", "2026-01-27T03:44"):
        assert overdue(shares, [last], datetime.fromisoformat(f"{moment}+00:00")) == {}
    assert list(overdue(shares, [last], datetime.fromisoformat("2026-01-27T03:49+00:00"))) == [shares.series[0]]


def test_the_run_asks_for_the_overdue_beside_the_failed_and_a_skip_counts_both() -> None:
    late = {DAYS: MOMENT, MINUTES: MOMENT + timedelta(minutes=3)}
    request = retry_request(MARKET, [], MOMENT, late)
    assert isinstance(request, dg.RunRequest)
    assert request.run_config["resources"]["run_options"]["config"]["series"] == [DAYS.key]
    skipped = retry_request(MARKET, [], MOMENT - timedelta(minutes=1), late)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "2 overdue; the next attempt is at 00:15:00 UTC"


@pytest.mark.parametrize("hours", [1, 20])
def test_after_a_standstill_of_the_schedule_one_run_makes_everything_current(world: World, hours: int) -> None:
    later = NOW + timedelta(hours=hours)
    assert any(verdict.faults for verdict in candle_verdicts(world.warehouse, world.market, later).values())
    request = tick_request(world.market, NOW, later)
    assert isinstance(request, dg.RunRequest)
    with dg.DagsterInstance.ephemeral() as instance:
        result = world.job("refresh").execute_in_process(
            instance=instance,
            tags={**request.tags, PROCESS_TAG: this_process()},
            run_config={"resources": {"run_options": {"config": {"now": later.isoformat()}}}, **QUIET},
        )
    assert result.success
    verdicts = candle_verdicts(world.warehouse, world.market, later)
    assert [fault for verdict in verdicts.values() for fault in verdict.faults] == []
    assert overdue(world.market, world.warehouse.series_status(world.market), later) == {}
    newest = {
        np.datetime64(row[0], "us")
        for row in world.query("select max(open_time) from bazaar.indicators group by timeframe")
    }
    assert newest == {
        world.market.calendar.last_closed(timeframe, instant(later)) for timeframe in world.market.timeframes
    }
