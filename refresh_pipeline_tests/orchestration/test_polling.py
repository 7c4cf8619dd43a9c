"""Slower while a venue errs, back at once when it recovers, never beyond its bounds, and always said out loud."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import numpy as np
import pytest

from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.polling import SLOWEST, base_interval, pace
from refresh_pipeline.orchestration.schedules import TICK_TAG, current_pace, refresh_schedule
from refresh_pipeline_tests.project_folder import NOW, World

# A Monday noon: no market's quiet hours.
BUSY = datetime(2026, 6, 1, 12, tzinfo=UTC)


def market(calendar: str = "crypto", timeframes: str = "[m1, D1]", off_peak: float = 1) -> Market:
    return parse_market(
        f"{{name: x, source: {{kind: demo}}, calendar: {calendar}, instruments: [A], timeframes: {timeframes}, "
        f"history: 1d, off_peak: {off_peak}}}",
        "x.yaml",
    )


@pytest.mark.parametrize(
    ("failed", "factor"), [(0, 1), (5, 1), (6, 1.5), (20, 1.5), (21, 2), (50, 2), (51, 4), (100, 4)]
)
def test_the_more_series_fail_the_slower(failed: int, factor: float) -> None:
    assert pace(market(), failed, 100, BUSY).interval == timedelta(minutes=1) * factor


def test_however_often_it_is_asked_nothing_builds_up_and_recovery_is_at_once() -> None:
    for _ in range(50):
        assert pace(market(), 100, 100, BUSY).factor == SLOWEST
    assert pace(market(), 0, 100, BUSY).factor == 1.0
    assert pace(market(), 0, 0, BUSY).factor == 1.0


def test_quiet_hours_count_where_the_market_says_so_and_bounds_hold_for_both() -> None:
    saturday = BUSY + timedelta(days=5)
    assert pace(market(), 0, 100, saturday).factor == 1.0
    assert pace(market(off_peak=2), 0, 100, saturday).factor == 2.0
    assert pace(market(off_peak=2), 0, 100, BUSY).factor == 1.0
    assert pace(market(off_peak=3), 30, 100, saturday).factor == SLOWEST
    assert pace(market(off_peak=3), 30, 100, saturday).reasons == (
        "30% of the series failed at their last attempt",
        "quiet hours",
    )


def test_each_calendar_knows_its_quiet_hours() -> None:
    def quiet(calendar: str, *times: str) -> list[bool]:
        return CALENDARS[calendar].is_off_peak(np.array(times, dtype="datetime64[us]")).tolist()

    weekend = ("2026-06-05T23:59", "2026-06-06", "2026-06-07T23:59", "2026-06-08")
    assert quiet("crypto", *weekend) == [False, True, True, False]
    # New York is four hours behind.
    assert quiet("fx", "2026-06-02T06:59", "2026-06-02T07:00", "2026-06-02T20:59", "2026-06-02T21:00") == [
        True, False, False, True,
    ]  # fmt: skip
    assert quiet("nse", "2026-06-02T05:00", "2026-06-02T20:00") == [False, False]


@pytest.mark.parametrize(("timeframes", "minutes"), [("[m1, H1]", 1), ("[m15]", 15), ("[H4, D1]", 60)])
def test_the_base_is_the_cadence_of_the_schedule(timeframes: str, minutes: int) -> None:
    assert base_interval(market(timeframes=timeframes)) == timedelta(minutes=minutes)


def test_an_off_peak_factor_out_of_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="off_peak: found 9"):
        market(off_peak=9)


# ---- on an instance


@dg.job(name="bazaar_refresh")
def bazaar_refresh() -> None:
    """A run of the same name is all that the schedule looks at."""


def tick(world: World, instance: dg.DagsterInstance, now: datetime) -> str | None:
    """Why the schedule skips; None where it asks for a run."""
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=now, resources={"warehouse": world.warehouse}
    ) as context:
        return refresh_schedule(world.market).evaluate_tick(context).skip_message


def test_while_the_venue_errs_ticks_are_skipped_and_say_why(world: World, tmp_path: Path) -> None:
    tags = {"dagster/schedule_name": "bazaar_refresh", TICK_TAG: NOW.isoformat()}
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        instance.create_run_for_job(job_def=bazaar_refresh, tags=tags, status=dg.DagsterRunStatus.FAILURE)
        assert tick(world, instance, NOW + timedelta(minutes=15)) is None
        world.change("update bazaar.outcomes set outcome = 'failed' where timeframe = 'm15' and asset = 'raw_candles'")
        # Half of the series: twice the interval, from the newest tick on, whatever became of its run.
        assert tick(world, instance, NOW + timedelta(minutes=15)) == (
            "bazaar is refreshed every 1800 s instead of every 900 s (50% of the series failed at their last attempt); "
            "the next refresh is due at 12:30:30 UTC"
        )
        assert tick(world, instance, NOW + timedelta(minutes=30)) is None
        world.change("update bazaar.outcomes set outcome = 'updated'")
        assert tick(world, instance, NOW + timedelta(minutes=15)) is None


def test_of_a_warehouse_that_somebody_holds_nothing_is_known_and_the_pace_is_the_usual_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change("update bazaar.outcomes set outcome = 'failed'")
    monkeypatch.setattr("refresh_pipeline.orchestration.schedules.PATIENCE", 0.1)
    with duckdb.connect(str(world.settings.database)):
        assert current_pace(world.market, world.warehouse, NOW).factor == 1.0
    assert current_pace(world.market, world.warehouse, NOW).factor == SLOWEST
