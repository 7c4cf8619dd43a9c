"""What each tick asks for: one wide run of what has closed, or a reason why there is none."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from dagster import DagsterRunStatus

from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.partition_ranges import RANGE_END, RANGE_START
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.backup_job import backup_job, backup_schedule
from refresh_pipeline.orchestration.partitions import grid
from refresh_pipeline.orchestration.schedules import (
    TICK_TAG,
    cron,
    due_timeframes,
    previous_tick,
    publish_schedule,
    refresh_schedule,
    tick_request,
)
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.project_folder import QUIET, World, metadata_of

YAML = """
name: {name}
source: {{kind: demo}}
calendar: {name}
instruments: [EUR/USD, GBP/USD, USD/JPY]
timeframes: [m5, H1, H4, D1, W1]
history: 1d
"""
CRYPTO = parse_market(YAML.format(name="crypto"), "crypto.yaml")
FX = parse_market(YAML.format(name="fx"), "fx.yaml")
# A Monday; New York is four hours behind.
NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
TICK = timedelta(minutes=5)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(market: Market, previous: str, now: str) -> str:
    return " ".join(due_timeframes(market, at(previous), at(now)))


def partitions(market: Market, tags: dict[str, str]) -> set[str]:
    keys = dg.PartitionKeyRange(tags[RANGE_START], tags[RANGE_END])
    return {str(key) for key in grid(market).get_partition_keys_in_range(keys)}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


# ---- what is due


@pytest.mark.parametrize(
    ("previous", "now", "expected"),
    [
        ("2026-06-01T12:05", "2026-06-01T12:10", "m5"),
        ("2026-06-01T12:55", "2026-06-01T13:00", "m5 H1"),
        ("2026-06-01T15:55", "2026-06-01T16:00", "m5 H1 H4"),
        ("2026-06-01T23:55", "2026-06-02T00:00", "m5 H1 H4 D1"),
        ("2026-05-31T23:55", "2026-06-01T00:00", "m5 H1 H4 D1 W1"),
        ("2026-06-01T12:05", "2026-06-01T12:09", ""),
    ],
)
def test_what_closed_since_the_last_tick_is_due(previous: str, now: str, expected: str) -> None:
    assert due(CRYPTO, previous, now) == expected


@pytest.mark.parametrize(
    ("previous", "now", "expected"),
    [
        # Seventeen o'clock in New York is 21:00 UTC in summer: the day, and on Fridays the week, ends there.
        ("2026-06-01T20:55", "2026-06-01T21:00", "m5 H1 H4 D1"),
        ("2026-06-05T20:55", "2026-06-05T21:00", "m5 H1 H4 D1"),
        ("2026-06-05T21:00", "2026-06-06T12:00", ""),
        ("2026-06-07T20:55", "2026-06-07T21:00", "W1"),
        ("2026-06-07T21:00", "2026-06-07T21:05", "m5"),
    ],
)
def test_a_day_in_new_york_ends_at_seventeen_and_a_weekend_closes_nothing(
    previous: str, now: str, expected: str
) -> None:
    assert due(FX, previous, now) == expected


def test_missed_ticks_are_made_up_for_by_the_next() -> None:
    assert due(CRYPTO, "2026-05-31T23:00", "2026-06-01T09:35") == "m5 H1 H4 D1 W1"


def test_the_first_tick_asks_for_everything() -> None:
    assert list(due_timeframes(FX, None, at("2026-06-06T12:00"))) == list(FX.timeframes)


def test_the_run_holds_every_instrument_on_the_due_timeframes() -> None:
    request = tick_request(CRYPTO, NOON - TICK, NOON)
    assert isinstance(request, dg.RunRequest)
    wanted = {f"{name}|{timeframe}" for name in CRYPTO.instruments for timeframe in ("m5", "H1", "H4")}
    assert partitions(CRYPTO, dict(request.tags)) == wanted
    assert request.tags[TICK_TAG] == "2026-06-01T12:00:00+00:00"


def test_nothing_due_is_a_skip_that_says_since_when() -> None:
    skipped = tick_request(FX, at("2026-06-05T21:00"), at("2026-06-06T12:00"))
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "no candle of fx has closed since 2026-06-05 21:00 UTC"


# ---- when it ticks


@pytest.mark.parametrize(
    ("timeframe", "expected"),
    [("m1", "* * * * *"), ("m5", "*/5 * * * *"), ("m30", "*/30 * * * *"), ("H1", "0 * * * *"), ("W1", "0 * * * *")],
)
def test_a_market_ticks_as_often_as_its_shortest_candles_close(timeframe: str, expected: str) -> None:
    assert cron(CRYPTO.calendar, Timeframe(timeframe)) == expected


@pytest.mark.parametrize("timeframe", ["m5", "m15", "m30", "H1", "H2", "H4", "D1"])
def test_shares_of_india_are_refreshed_in_the_minute_in_which_their_bars_close(timeframe: str) -> None:
    calendar, shortest = CALENDARS["nse"], Timeframe(timeframe)
    opens = calendar.open_times(shortest, np.datetime64("2026-06-01", "us"), np.datetime64("2026-06-06", "us"))
    minutes = {int(minute) % 60 for minute in calendar.closes(shortest, opens).astype("datetime64[m]").astype(int)}
    ticks = cron(calendar, shortest).split()[0]
    listed = range(0, 60, int(ticks[2:])) if ticks.startswith("*/") else [int(minute) for minute in ticks.split(",")]
    assert len(opens) > 0
    # India is half an hour off the hours of UTC.
    assert {(minute + 30) % 60 for minute in minutes} <= set(listed)


def test_each_market_ticks_in_its_own_zone() -> None:
    assert refresh_schedule(FX).execution_timezone == "America/New_York"
    assert publish_schedule(FX).execution_timezone == "America/New_York"
    assert refresh_schedule(CRYPTO).execution_timezone == "UTC"


# ---- ticks on an instance


def tick(
    instance: dg.DagsterInstance, now: datetime, market: Market = CRYPTO, warehouse: Warehouse | None = None
) -> tuple[list[dg.RunRequest], str | None]:
    """What the schedule of a market answers at a time."""
    resources = {"warehouse": warehouse or Warehouse(database="/nowhere/refresh.duckdb")}
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=now, resources=resources) as context:
        answer = refresh_schedule(market).evaluate_tick(context)
    return list(answer.run_requests or []), answer.skip_message


@dg.job(name="crypto_refresh")
def crypto_refresh() -> None:
    """A run of the same name is all that the schedule looks at."""


def past_run(
    instance: dg.DagsterInstance, tags: dict[str, str], status: DagsterRunStatus = DagsterRunStatus.SUCCESS
) -> str:
    """A run that is on record."""
    run = instance.create_run_for_job(job_def=crypto_refresh, tags=tags, status=status)
    return run.run_id


def of_tick(when: datetime) -> dict[str, str]:
    return {"dagster/schedule_name": "crypto_refresh", TICK_TAG: when.isoformat()}


def test_a_tick_asks_for_what_closed_since_the_one_before(instance: dg.DagsterInstance) -> None:
    requests, skipped = tick(instance, NOON)
    assert (len(requests), skipped) == (1, None)
    assert partitions(CRYPTO, dict(requests[0].tags)) == {series.key for series in CRYPTO.series}
    past_run(instance, of_tick(NOON))
    requests, _ = tick(instance, NOON + TICK)
    assert partitions(CRYPTO, dict(requests[0].tags)) == {f"{name}|m5" for name in CRYPTO.instruments}
    past_run(instance, of_tick(NOON + TICK))
    requests, _ = tick(instance, NOON + timedelta(hours=4))
    wanted = {f"{name}|{timeframe}" for name in CRYPTO.instruments for timeframe in ("m5", "H1", "H4")}
    assert partitions(CRYPTO, dict(requests[0].tags)) == wanted


def test_what_a_failed_run_was_asked_for_is_asked_for_again(instance: dg.DagsterInstance) -> None:
    past_run(instance, of_tick(NOON - TICK))
    past_run(instance, of_tick(NOON), DagsterRunStatus.FAILURE)
    assert previous_tick(instance, CRYPTO) == NOON - TICK
    requests, _ = tick(instance, NOON + TICK)
    wanted = {f"{name}|{timeframe}" for name in CRYPTO.instruments for timeframe in ("m5", "H1", "H4")}
    assert partitions(CRYPTO, dict(requests[0].tags)) == wanted


def test_a_tick_of_a_clock_that_was_ahead_does_not_count(instance: dg.DagsterInstance) -> None:
    past_run(instance, of_tick(NOON - TICK))
    past_run(instance, of_tick(NOON + timedelta(hours=26)))
    assert previous_tick(instance, CRYPTO, NOON) == NOON - TICK
    requests, skipped = tick(instance, NOON)
    assert (len(requests), skipped) == (1, None)


def test_runs_that_no_tick_asked_for_do_not_count(instance: dg.DagsterInstance) -> None:
    past_run(instance, {})
    assert previous_tick(instance, CRYPTO) is None


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED])
def test_while_a_run_is_going_a_tick_is_skipped(instance: dg.DagsterInstance, status: DagsterRunStatus) -> None:
    run_id = past_run(instance, {PROCESS_TAG: this_process()}, status)
    assert tick(instance, NOON) == ([], f"the previous run is still going: {run_id}")
    # Another market's run is no reason to wait.
    assert len(tick(instance, NOON, FX)[0]) == 1


def test_a_run_whose_process_is_gone_holds_nobody_up(instance: dg.DagsterInstance) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    tags = {PROCESS_TAG: f"{socket.gethostname()}:{ended.pid}"}
    run_id = past_run(instance, of_tick(NOON) | tags, DagsterRunStatus.STARTED)
    requests, _ = tick(instance, NOON + TICK)
    assert len(requests) == 1
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status is DagsterRunStatus.FAILURE


def test_a_run_of_an_old_name_of_this_machine_blocks_no_tick(instance: dg.DagsterInstance) -> None:
    run_id = past_run(instance, {PROCESS_TAG: f"old-name:{os.getpid()}:1"}, DagsterRunStatus.STARTED)
    assert len(tick(instance, NOON)[0]) == 1
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status is DagsterRunStatus.FAILURE


def test_without_a_warehouse_a_backup_says_so_before_it_looks_at_the_runs(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFRESH_DATA_DIR", str(tmp_path))
    instance.create_run_for_job(job_def=backup_job, tags={PROCESS_TAG: this_process()}, status=DagsterRunStatus.STARTED)

    def answer() -> str | None:
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=NOON) as context:
            return backup_schedule.evaluate_tick(context).skip_message

    assert answer() == "there is no warehouse yet: no market was refreshed"
    load_settings().database.touch()
    assert "is still going" in str(answer())
    # A backup of a lake is refused: a run that fails each night would say nothing new.
    monkeypatch.setenv("REFRESH_WAREHOUSE", "ducklake:postgresql://ann@db.example/lake?data=/mnt/candles")
    assert "pg_dump" in str(answer())


def test_at_a_weekend_a_tick_is_skipped_with_the_reason(instance: dg.DagsterInstance) -> None:
    @dg.job(name="fx_refresh")
    def fx_refresh() -> None: ...

    tags = {"dagster/schedule_name": "fx_refresh", TICK_TAG: at("2026-06-05T21:00").isoformat()}
    instance.create_run_for_job(job_def=fx_refresh, tags=tags, status=DagsterRunStatus.SUCCESS)
    requests, skipped = tick(instance, at("2026-06-06T03:00"), FX)
    assert (requests, skipped) == ([], "no candle of fx has closed since 2026-06-05 21:00 UTC")


def test_publishing_asks_for_everything_unless_it_is_going(instance: dg.DagsterInstance) -> None:
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=NOON) as context:
        answer = publish_schedule(CRYPTO).evaluate_tick(context)
        assert answer.run_requests is not None
        assert partitions(CRYPTO, dict(answer.run_requests[0].tags)) == {series.key for series in CRYPTO.series}

        @dg.job(name="crypto_publish")
        def crypto_publish() -> None: ...

        run = instance.create_run_for_job(job_def=crypto_publish, status=DagsterRunStatus.STARTED)
        assert publish_schedule(CRYPTO).evaluate_tick(context).skip_message == (
            f"the previous run is still going: {run.run_id}"
        )


def test_what_a_tick_asks_for_is_what_the_job_does(world: World) -> None:
    market, now = world.market, datetime(2026, 6, 1, 12, 15, tzinfo=UTC)
    request = tick_request(market, now - timedelta(minutes=15), now)
    assert isinstance(request, dg.RunRequest)
    config = {"resources": {"run_options": {"config": {"now": now.isoformat()}}}, **QUIET}
    with dg.DagsterInstance.ephemeral() as instance:
        tags = {**request.tags, PROCESS_TAG: this_process()}
        result = world.job("refresh").execute_in_process(instance=instance, tags=tags, run_config=config)
    keys = {f"{name}|m15" for name in market.instruments}
    for asset in ("raw_candles", "enhanced_candles", "indicators"):
        assert set(metadata_of(result, asset)) == keys
    assert {entry["rows_added"] for entry in metadata_of(result, "raw_candles").values()} == {1}
