"""What is wrong is found: in the warehouse, in runs, on the disk, in the calendar; and what was done is counted."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from refresh_pipeline.market_files import load_markets
from refresh_pipeline.monitoring import problems
from refresh_pipeline.monitoring.notification_policy import Period
from refresh_pipeline.orchestration.failed_runs import run_history
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.project_folder import LATER, NOW, World

ALL = ["BTC/USD|m15", "BTC/USD|H1", "ETH/USD|m15", "ETH/USD|H1"]
ALL += ["SOL/USD|m15", "SOL/USD|H1", "XRP/USD|m15", "XRP/USD|H1"]


@pytest.fixture
def instance(world: World) -> Iterator[dg.DagsterInstance]:
    with world.dagster() as opened:
        yield opened


def found(world: World, instance: dg.DagsterInstance, now: datetime = NOW) -> dict[str, str]:
    looked = problems.snapshot(world.settings, [world.market], run_history(instance, [world.market]), now)
    return {each.subject: each.text for each in looked.problems}


def test_after_a_refresh_nothing_is_wrong(world: World, instance: dg.DagsterInstance) -> None:
    assert found(world, instance) == {}


def test_a_market_that_is_not_refreshed_any_more_is_stale(world: World, instance: dg.DagsterInstance) -> None:
    text = "none of its 8 series is current; the newest candle is 2026-06-01 11:45"
    assert found(world, instance, LATER) == {"bazaar: stale market": text}


def test_a_tick_that_is_late_is_no_problem_yet(world: World, instance: dg.DagsterInstance) -> None:
    # The candle of 12:00 closes at 12:15, and has two ticks and three minutes.
    closed = NOW.replace(minute=15, second=0)
    assert found(world, instance, closed + timedelta(minutes=32)) == {}
    assert len(found(world, instance, closed + timedelta(minutes=33))) == 4


def test_a_series_that_is_left_behind_is_stale_by_itself(world: World, instance: dg.DagsterInstance) -> None:
    world.write_candles("ETH/USD|m15", last=NOW)
    world.run("refresh", now=LATER)
    assert found(world, instance, LATER) == {"bazaar: stale: ETH/USD m15": "newest candle: 2026-06-01 12:00 (updated)"}


def test_a_quiet_instrument_is_not_stale_where_its_source_answered(world: World, instance: dg.DagsterInstance) -> None:
    world.write_candles("ETH/USD|m15", last=LATER - timedelta(hours=1))
    world.run("refresh", now=LATER)
    assert found(world, instance, LATER) == {}


def test_an_error_rate_above_five_percent_is_said_with_a_reason(world: World, instance: dg.DagsterInstance) -> None:
    world.candle_file("ETH/USD|m15").write_text("nonsense\n")
    world.run("refresh", now=NOW)
    [(subject, text)] = found(world, instance).items()
    assert subject == "bazaar: errors"
    assert text.startswith("1 of 8 series failed (12%); ")
    assert "ETH-USD_m15.csv" in text


def test_a_market_whose_series_all_fail_is_said_and_over_once_the_next_run_works(
    world: World, instance: dg.DagsterInstance
) -> None:
    kept = {key: world.candle_file(key).read_text() for key in ALL}
    for key in ALL:
        world.candle_file(key).write_text("nonsense\n")
    assert world.run("refresh", instance=instance).success
    [(subject, text)] = found(world, instance).items()
    assert subject == "bazaar: errors"
    assert text.startswith("8 of 8 series failed (100%); ")
    for key, content in kept.items():
        world.candle_file(key).write_text(content)
    assert world.run("refresh", instance=instance).success
    assert found(world, instance) == {}


def test_an_upload_that_fails_is_said(world: World, instance: dg.DagsterInstance) -> None:
    (world.root / "blocked").write_text("a file where a folder should be")
    with (world.root / ".env").open("a") as settings:
        settings.write(f"REFRESH_UPLOAD_URL=file://{world.root}/blocked/files\n")
    world.run("refresh", now=LATER)
    world.run("publish", now=LATER)
    [(subject, text)] = found(world, instance, LATER).items()
    assert subject == "bazaar: upload failing: uploads"
    assert text.startswith("files or candles of 8 series did not arrive; ")


def test_a_disk_without_room_for_another_warehouse_is_nearly_full(world: World) -> None:
    assert list(problems.full_disks(world.settings)) == []
    # Larger than what is free, and takes no room.
    os.truncate(world.settings.database, shutil.disk_usage(world.root).free + 1024**3)
    [problem] = problems.full_disks(world.settings)
    assert problem.subject == f"machine: disk nearly full: {world.settings.data}"
    assert "bytes are free, wanted at least" in problem.text


def test_a_calendar_that_ends_is_said_sixty_days_before() -> None:
    market = load_markets(load_settings(enabled_markets="nse"))
    assert list(problems.ending_calendars(market, datetime(2026, 10, 1, tzinfo=UTC))) == []
    [problem] = problems.ending_calendars(market, datetime(2026, 12, 1, tzinfo=UTC))
    assert problem.subject == "nse: calendar ends"
    assert "ends in 30 days" in problem.text


def test_past_the_end_of_a_calendar_only_that_is_said(world: World) -> None:
    market = load_markets(load_settings(enabled_markets="nse"))[0]
    ended = datetime(2027, 6, 1, tzinfo=UTC)
    behind = [replace(report, series=market.series[0]) for report in world.warehouse.series_status(world.market)]
    assert behind
    assert problems.series_problems(market, behind, ended) == []
    known = problems.series_problems(market, behind, datetime(2026, 7, 1, tzinfo=UTC))
    assert [problem.kind for problem in known] == ["stale market"]


def test_a_warehouse_that_cannot_be_read_is_said_and_nothing_of_its_series(
    world: World, instance: dg.DagsterInstance
) -> None:
    world.settings.database.write_bytes(b"nonsense" * 1000)
    looked = problems.snapshot(world.settings, [world.market], run_history(instance, [world.market]), NOW)
    assert [each.subject for each in looked.problems] == ["machine: the warehouse cannot be read"]
    assert looked.unchecked == {"bazaar"}


def test_a_series_that_was_never_asked_for_is_no_problem(new_world: World) -> None:
    with new_world.dagster() as instance:
        assert found(new_world, instance) == {}


# ---- reports


def lines_of(world: World, instance: dg.DagsterInstance, period: Period, now: datetime) -> list[str]:
    text = problems.report(world.settings, [world.market], run_history(instance, [world.market]), period, now)
    return [line.strip() for line in text.splitlines()]


def test_the_report_counts_what_was_done(world: World, instance: dg.DagsterInstance) -> None:
    [(files, size)] = world.query("select count(*), sum(bytes) from bazaar.uploads")
    assert lines_of(world, instance, Period.daily, NOW + timedelta(seconds=29)) == [
        "2026-05-31 12:00 to 2026-06-01 12:00 UTC; 0 runs failed",
        "bazaar:",
        "series current: 8 of 8",
        f"candles added: {4 * (96 + 24)}",
        "revisions: 0",
        "rejected: 0 candles",
        "gaps: 0 (0 candles)",
        "errors: 0 series failed at their last attempt",
        f"uploads: {files} files, {size:,} bytes",
    ]


def test_a_correction_is_a_revision_and_no_new_candle(world: World, instance: dg.DagsterInstance) -> None:
    corrected = {"2026-06-01T11:30:00": {"volume": 999}}
    world.write_candles("BTC/USD|m15", changes=corrected)
    later = NOW + timedelta(days=1)
    world.run("refresh", now=LATER)
    lines = lines_of(world, instance, Period.daily, LATER + timedelta(minutes=5))
    # The first refresh is within the day, and its candle has been replaced since.
    assert "revisions: 1" in lines
    assert f"candles added: {4 * (96 + 24) + 4 * (8 + 2)}" in lines
    added = Warehouse(database=str(world.settings.database)).activity(world.market, NOW + timedelta(minutes=30), later)
    assert (added.added, added.revised) == (4 * (8 + 2), 1)


def test_the_report_tells_of_gaps_failures_and_what_is_late(world: World, instance: dg.DagsterInstance) -> None:
    world.lose_candles("instrument = 'BTC/USD' and open_time = '2026-06-01 03:00'")
    for key in ALL:
        world.candle_file(key).write_text("nonsense\n")
    world.run("refresh", instance=instance, now=LATER)
    lines = lines_of(world, instance, Period.weekly, LATER)
    assert lines[2:] == [
        "series current: 0 of 8",
        f"candles added: {4 * (96 + 24) - 2}",
        "revisions: 0",
        "rejected: 0 candles",
        lines[6],
        "errors: 8 series failed at their last attempt",
        lines[8],
    ]
    assert lines[6].startswith("gaps: ")
    assert int(lines[6].split()[1]) >= 2


def test_the_report_of_a_market_that_was_never_refreshed_says_so(new_world: World) -> None:
    with new_world.dagster() as instance:
        lines = lines_of(new_world, instance, Period.daily, NOW)
    assert lines[2:4] == ["series current: 0 of 8", "candles added: 0"]
