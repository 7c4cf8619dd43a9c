"""Maintenance: how long runs of which timeframe are kept, the job, its schedule and its command."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.instance.run_retention import retention_of
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.partition_ranges import range_tags
from refresh_pipeline.orchestration.maintenance_job import maintenance_job, maintenance_schedule
from refresh_pipeline.orchestration.partitions import whole
from refresh_pipeline.settings import load_settings, prepare_dagster
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.project_folder import QUIET, command

MARKET = "{name: x, source: {kind: demo}, calendar: crypto, instruments: [A, B], timeframes: [m15, H1], history: 1d}"


@pytest.fixture
def market() -> Market:
    return parse_market(MARKET, file="x.yaml")


@pytest.fixture
def instance(market: Market, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Two refreshes of the same that succeeded, half an hour after one another, thirty hours and more ago."""
    os.environ["REFRESH_DATA_DIR"] = str(tmp_path)
    prepare_dagster(load_settings())
    with dg.DagsterInstance.get() as made:
        for _ in range(2):
            made.create_run_for_job(maintenance_job, status=DagsterRunStatus.SUCCESS, tags=dict(whole(market)))
        with made.run_storage.connect() as connection:  # pyright: ignore[reportAttributeAccessIssue]
            long_ago = datetime.now(UTC).timestamp() - 30.5 * 3600
            connection.exec_driver_sql("update runs set end_time = ? + 1800 * id", (long_ago - 3600,))
        yield made


def run_of(tags: dict[str, str], status: DagsterRunStatus = DagsterRunStatus.SUCCESS) -> dg.DagsterRun:
    return dg.DagsterRun("any", tags=tags, status=status)


def test_a_run_is_kept_by_the_shortest_timeframe_that_it_refreshed(market: Market) -> None:
    assert retention_of(run_of(dict(whole(market)))) == timedelta(hours=30)
    hourly = range_tags(market, list(market.instruments), [market.timeframe("H1")])
    assert retention_of(run_of(dict(hourly))) == timedelta(hours=120)
    assert retention_of(run_of({"dagster/partition": "BTC/USD|m1"})) == timedelta(hours=2)
    assert retention_of(run_of({"dagster/partition": "BTC/USD|MN1"})) == timedelta(days=30)


@pytest.mark.parametrize("tags", [{}, {"dagster/partition": "2026-11-20"}, {"dagster/partition": "a|b"}])
def test_what_is_no_refresh_is_kept_for_a_week(tags: dict[str, str]) -> None:
    assert retention_of(run_of(tags)) == timedelta(days=7)


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_what_did_not_succeed_is_kept_for_three_days_at_least(status: DagsterRunStatus) -> None:
    assert retention_of(run_of({"dagster/partition": "BTC/USD|m1"}, status)) == timedelta(days=3)
    assert retention_of(run_of({"dagster/partition": "BTC/USD|D1"}, status)) == timedelta(days=30)


def metadata_of(result: dg.ExecuteInProcessResult, step: str) -> dict[str, object]:
    outputs = [each for each in result.all_events if each.is_successful_output and each.step_key == step]
    [said] = [each.step_output_data.metadata for each in outputs]
    return {name: entry.value for name, entry in said.items()}


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_job_prunes_and_says_how_much(instance: dg.DagsterInstance, dry_run: bool) -> None:
    old, newest = [run.run_id for run in instance.get_runs()][::-1]
    config = {"ops": {"prune_runs": {"config": {"dry_run": dry_run}}}, **QUIET}
    result = maintenance_job.execute_in_process(instance=instance, run_config=config)
    said = metadata_of(result, "prune_runs")
    assert {name: said[name] for name in ("dry_run", "runs", "thinned", "orphans")} == {
        "dry_run": dry_run,
        "runs": 1,
        "thinned": 0,
        "orphans": 0,
    }
    assert said.keys() == {"dry_run", "runs", "thinned", "events", "orphans", "bytes", "given_back"}
    # Nothing was refreshed yet.
    assert metadata_of(result, "compact_warehouse") == {"rows": 0, "pieces": 0, "longest_seconds": 0.0}
    kept = [run.run_id for run in instance.get_runs()][::-1]
    assert kept == [*([old] if dry_run else []), newest, result.run_id]
    # Its process is known, so that a long one is not taken for dead.
    assert PROCESS_TAG in instance.get_runs(limit=1)[0].tags


def test_the_command_says_what_would_go_and_deletes_it_without_the_option(instance: dg.DagsterInstance) -> None:
    dry = command("maintain", "--dry-run")
    assert (dry.exit_code, dry.output.split(",")[0]) == (0, "would delete 1 runs")
    assert instance.get_runs_count() == 2
    done = command("maintain")
    assert (done.exit_code, done.output.split(",")[0]) == (0, "deleted 1 runs")
    assert instance.get_runs_count() == 1


def test_the_warehouses_old_rows_are_brought_into_order_by_command_and_by_job(
    market: Market, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(MARKET)
    os.environ |= {"REFRESH_MARKETS": "x", "REFRESH_MARKETS_DIR": str(tmp_path)}
    assert command("maintain", "--dry-run").output.splitlines()[-1] == "would compact 0 rows"
    warehouse = Warehouse(database=str(load_settings().database))
    warehouse.prepare(market)
    # It is begun for nothing less; of rows that say nothing but their key there are enough in a moment.
    with warehouse.get_connection() as connection:
        connection.execute(
            "insert into x.enhanced_candles (instrument, timeframe, open_time) "
            "select name, 'm15', timestamp '2005-01-01' + to_minutes(15 * number::integer) "
            "from range(96 * 1408) r(number), (values ('B'), ('A')) i(name) order by number, name desc"
        )
    assert command("maintain", "--dry-run").output.splitlines()[-1] == "would compact 270,336 rows"
    result = maintenance_job.execute_in_process(instance=instance, run_config=QUIET)
    said = metadata_of(result, "compact_warehouse")
    assert (said["rows"], said["pieces"]) == (270_336, 1)
    with warehouse.reader() as connection:
        rows = connection.execute("select instrument from x.enhanced_candles order by rowid limit 2").fetchall()
    assert rows == [("A",), ("A",)]
    assert command("maintain").output.splitlines()[-1] == "no rows to bring into order"


def test_the_warehouse_is_tidied_once_a_night(instance: dg.DagsterInstance) -> None:
    wanted, asked = [], dg.RunRequest()
    for hour in range(24):
        due = datetime(2026, 11, 20, hour, 37, tzinfo=UTC)
        asked = maintenance_schedule(dg.build_schedule_context(instance=instance, scheduled_execution_time=due))
        assert isinstance(asked, dg.RunRequest)
        wanted.append(asked.run_config["ops"]["compact_warehouse"]["config"]["wanted"])
    assert wanted.count(True) == 1
    assert wanted.index(True) == 2
    by_day = maintenance_job.execute_in_process(instance=instance, run_config={**asked.run_config, **QUIET})
    assert metadata_of(by_day, "prune_runs")["runs"] == 1
    assert metadata_of(by_day, "compact_warehouse") == {}


def test_a_tick_waits_for_the_one_before(instance: dg.DagsterInstance) -> None:
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 11, 20, 4, tzinfo=UTC)
    )
    assert isinstance(maintenance_schedule(context), dg.RunRequest)
    tags = {PROCESS_TAG: this_process()}
    going = instance.create_run_for_job(maintenance_job, status=DagsterRunStatus.STARTED, tags=tags)
    skipped = maintenance_schedule(context)
    assert isinstance(skipped, dg.SkipReason)
    assert going.run_id in str(skipped.skip_message)
