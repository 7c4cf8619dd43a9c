"""Pruning: superseded runs go with everything that they left, and what the web UI says of partitions stays the same."""

import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.events import AssetMaterializationPlannedData, StepMaterializationData
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage, SqlEventLogStorage
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from sqlalchemy.engine import Connection

from refresh_pipeline.instance.run_files import RunFiles, used_bytes, vacuum
from refresh_pipeline.instance.run_pruning import Pruned, prune
from refresh_pipeline_tests.instance.wide import COMPUTED, GRID, KEYS, QUIET, RAW, instance_in, job_of, run_wide

FEW = KEYS[:4]
HOUR = timedelta(hours=1)


def kept_for_an_hour(run: dg.DagsterRun) -> timedelta:
    return HOUR


def kept_for_ever(run: dg.DagsterRun) -> timedelta:
    return timedelta(days=1000)


def in_two_hours() -> datetime:
    return datetime.now(UTC) + 2 * HOUR


def run_ids(instance: dg.DagsterInstance) -> list[str]:
    return [run.run_id for run in instance.get_runs()][::-1]


def state(instance: dg.DagsterInstance) -> dict[str, object]:
    """What Dagster says of each asset's partitions, from its events and not from what it remembers."""
    log, found = instance.event_log_storage, {}
    instance.wipe_asset_cached_status([RAW, COMPUTED])
    for asset in (RAW, COMPUTED):
        status = get_and_update_asset_status_cache_value(instance, asset, GRID)
        assert status is not None
        newest = instance.get_latest_materialization_event(asset)
        found[asset.to_user_string()] = (
            log.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION),
            instance.get_materialized_partitions(asset),
            newest and newest.run_id,
            status._replace(latest_storage_id=0),
        )
    return found


@contextmanager
def in_sql(instance: dg.DagsterInstance) -> Iterator[Connection]:
    log = instance.event_log_storage
    assert isinstance(log, SqlEventLogStorage)
    with log.index_connection() as connection:
        yield connection


def rows(instance: dg.DagsterInstance, table: str, where: str = "true") -> int:
    with in_sql(instance) as connection:
        return connection.exec_driver_sql(f"select count(*) from {table} where {where}").fetchall()[0][0]


@dataclass(frozen=True)
class History:
    """Runs of a few partitions: all were made by `holder`, all but the last again by `superseded` and by `newest`."""

    instance: dg.DagsterInstance
    holder: str
    superseded: str
    newest: str


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an instance on which these runs have been."""
    folder = tmp_path_factory.mktemp("dagster")
    with instance_in(folder) as instance:
        for failing in (set(), {FEW[3]}, {FEW[3]}):
            run_wide(instance, job_of(failing), FEW[0], FEW[-1])
    return folder


@pytest.fixture
def history(original: Path, tmp_path: Path) -> Iterator[History]:
    shutil.copytree(original, tmp_path / "dagster")
    with instance_in(tmp_path / "dagster") as instance:
        yield History(instance, *run_ids(instance))


def report(instance: dg.DagsterInstance, run: dg.DagsterRun, key: str, *, planned: bool = False) -> None:
    """Let a run have made a partition, or have meant to."""
    data = (
        AssetMaterializationPlannedData(RAW, partition=key)
        if planned
        else StepMaterializationData(dg.AssetMaterialization(RAW, partition=key))
    )
    kind = DagsterEventType.ASSET_MATERIALIZATION_PLANNED if planned else DagsterEventType.ASSET_MATERIALIZATION
    event = dg.DagsterEvent(kind.value, run.job_name, event_specific_data=data)
    instance.report_dagster_event(event, run_id=run.run_id)


# ---- what goes and what stays


def test_a_superseded_run_goes_with_its_events_its_tags_its_file_and_its_logs(history: History) -> None:
    instance, files = history.instance, RunFiles.of(history.instance)
    assert len(files.of_run(history.superseded)) == 2
    before, events, tags = state(instance), rows(instance, "event_logs"), rows(instance, "asset_event_tags")
    pruned = prune(instance, kept_for_an_hour, in_two_hours())
    assert run_ids(instance) == [history.holder, history.newest]
    assert files.of_run(history.superseded) == []
    assert state(instance) == before
    assert (pruned.runs, pruned.thinned) == (1, 1)
    assert pruned.events == events - rows(instance, "event_logs")
    assert rows(instance, "event_logs", f"run_id = '{history.superseded}'") == 0
    # Each event that is left has its tags, and no other.
    left = rows(instance, "event_logs", "dagster_event_type = 'ASSET_MATERIALIZATION'")
    assert left == 2 * len(FEW)
    assert rows(instance, "asset_event_tags") == left * tags // (2 * (4 + 3 + 3))
    assert pruned.bytes > 100_000


def test_of_a_run_that_holds_a_partitions_newest_materialization_only_the_rest_goes(history: History) -> None:
    instance = history.instance
    prune(instance, kept_for_an_hour, in_two_hours())
    records = instance.fetch_materializations(RAW, limit=100).records
    left = sorted((each.run_id, each.partition_key) for each in records)
    assert left == sorted([(history.holder, FEW[3]), *((history.newest, key) for key in FEW[:3])])
    # Its own page still shows all of it.
    made = instance.get_records_for_run(history.holder, of_type=DagsterEventType.ASSET_MATERIALIZATION).records
    assert len(made) == 2 * len(FEW)


def test_of_events_without_a_run_the_newest_of_each_kind_stay(history: History) -> None:
    instance = history.instance
    for number in range(3):
        for key in FEW[:2]:
            instance.report_runless_asset_event(dg.AssetMaterialization(RAW, partition=key, metadata={"n": number}))
        instance.report_runless_asset_event(dg.AssetObservation(COMPUTED))
    log = instance.event_log_storage
    assert isinstance(log, SqlEventLogStorage)
    with log.run_connection("") as connection:
        assert connection.exec_driver_sql("select count(*) from event_logs").fetchall() == [(9,)]
    before = state(instance)
    assert prune(instance, kept_for_ever, in_two_hours()) == Pruned()
    in_a_week = datetime.now(UTC) + timedelta(days=7, hours=1)
    assert prune(instance, kept_for_ever, in_a_week, dry_run=True).events == 6
    assert prune(instance, kept_for_ever, in_a_week).events == 6
    assert rows(instance, "event_logs", "run_id = ''") == 3
    assert state(instance) == before
    with log.run_connection("") as connection:
        assert connection.exec_driver_sql("select count(*) from event_logs").fetchall() == [(3,)]
    assert prune(instance, kept_for_ever, in_a_week) == Pruned()


def test_a_dry_run_says_the_same_and_deletes_nothing(history: History) -> None:
    instance = history.instance
    before, kept = rows(instance, "event_logs"), run_ids(instance)
    dry = prune(instance, kept_for_an_hour, in_two_hours(), dry_run=True)
    assert (rows(instance, "event_logs"), run_ids(instance)) == (before, kept)
    done = prune(instance, kept_for_an_hour, in_two_hours())
    assert (dry.runs, dry.thinned, dry.events) == (done.runs, done.thinned, done.events)
    assert prune(instance, kept_for_an_hour, in_two_hours()) == Pruned()


def test_what_is_young_or_going_or_the_newest_of_its_kind_stays(history: History) -> None:
    instance, job = history.instance, job_of()
    kinds = [
        (DagsterRunStatus.STARTED, {}),
        (DagsterRunStatus.CANCELED, {}),
        (DagsterRunStatus.SUCCESS, {"dagster/schedule_name": "wide"}),
    ]
    newest = [instance.create_run_for_job(job, status=status, tags=tags).run_id for status, tags in kinds]
    assert prune(instance, kept_for_an_hour, datetime.now(UTC)) == Pruned()
    assert prune(instance, lambda _: 3 * HOUR, in_two_hours()) == Pruned()
    assert prune(instance, kept_for_an_hour, in_two_hours()).runs == 1
    assert run_ids(instance) == [history.holder, history.newest, *newest]


def test_how_long_a_run_is_kept_is_asked_of_each_run(history: History) -> None:
    def kept_for(run: dg.DagsterRun) -> timedelta:
        return 3 * HOUR if run.run_id == history.superseded else HOUR

    pruned = prune(history.instance, kept_for, in_two_hours())
    assert (pruned.runs, pruned.thinned) == (0, 1)


def test_a_run_of_a_backfill_that_is_going_stays(history: History) -> None:
    instance = history.instance
    backfill = PartitionBackfill("going", BulkActionStatus.REQUESTED, False, {}, 0.0)
    instance.add_backfill(backfill)
    instance.add_run_tags(history.superseded, {"dagster/backfill": "going"})
    assert prune(instance, kept_for_an_hour, in_two_hours()).runs == 0
    instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert prune(instance, kept_for_an_hour, in_two_hours()).runs == 1


def test_a_partition_that_failed_and_was_not_made_since_is_still_said_to_have_failed(history: History) -> None:
    instance, job = history.instance, job_of()
    failed = [instance.create_run_for_job(job, status=DagsterRunStatus.FAILURE) for _ in range(3)]
    for run, key in zip(failed, FEW, strict=False):
        report(instance, run, key, planned=True)
    instance.report_runless_asset_event(dg.AssetMaterialization(RAW, partition=FEW[0]))
    before = state(instance)
    prune(instance, kept_for_an_hour, in_two_hours())
    assert state(instance) == before
    assert [run.run_id in run_ids(instance) for run in failed] == [False, True, True]


def test_the_newest_evaluation_of_a_check_stays_and_older_ones_go(history: History) -> None:
    @dg.asset_check(asset=RAW)
    def holds() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    checks = dg.Definitions(asset_checks=[holds], jobs=[dg.define_asset_job("check", dg.AssetSelection.checks(holds))])
    job, instance = checks.resolve_job_def("check"), history.instance
    runs = [job.execute_in_process(instance=instance, run_config=QUIET).run_id for _ in range(2)]
    # The newest of its job has come to no evaluation.
    instance.create_run_for_job(job, status=DagsterRunStatus.SUCCESS)
    key = dg.AssetCheckKey(RAW, "holds")
    before = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
    prune(instance, kept_for_an_hour, in_two_hours())
    assert [run in run_ids(instance) for run in runs] == [False, True]
    assert instance.event_log_storage.get_latest_asset_check_execution_by_key([key]) == before
    with in_sql(instance) as connection:
        left = connection.exec_driver_sql("select execution_status from asset_check_executions order by id").fetchall()
    assert [row[0] for row in left] == ["SUCCEEDED", "PLANNED"]


def test_pruning_that_was_killed_is_finished_by_the_next(history: History) -> None:
    instance = history.instance
    with in_sql(instance) as connection:
        connection.exec_driver_sql("delete from event_logs where run_id = ?", (history.superseded,))
    RunFiles.of(instance).of_run(history.superseded)[0].unlink()
    assert prune(instance, kept_for_an_hour, in_two_hours()).runs == 1
    assert run_ids(instance) == [history.holder, history.newest]


def test_files_of_runs_that_are_no_more_go_once_they_are_old(history: History) -> None:
    instance, files, orphan = history.instance, RunFiles.of(history.instance), str(uuid.uuid4())
    assert files.events is not None
    others = [files.events / "mine.db", files.logs / "mine", files.events / f"{history.newest}.db"]
    for path in (files.events / f"{orphan}.db", files.events / "mine.db"):
        path.write_bytes(b"12345")
    for name in (orphan, "mine"):
        (files.logs / name / "compute_logs").mkdir(parents=True)
    for_ever = timedelta(days=999)
    assert prune(instance, lambda _: for_ever, in_two_hours()) == Pruned()
    assert prune(instance, lambda _: for_ever, datetime.now(UTC) + 25 * HOUR) == Pruned(orphans=1, bytes=5)
    assert files.of_run(orphan) == []
    assert all(path.exists() for path in others)


# ---- other storages


def test_where_all_events_lie_in_one_place_whole_runs_go_the_public_way(tmp_path: Path) -> None:
    with instance_in(tmp_path / "dagster", ConsolidatedSqliteEventLogStorage) as instance:
        job = job_of()
        holder, superseded, newest = (instance.create_run_for_job(job, status=DagsterRunStatus.SUCCESS) for _ in "abc")
        for run, keys in ((holder, FEW), (superseded, FEW[:3]), (newest, FEW[:3])):
            for key in keys:
                report(instance, run, key)
        before = instance.get_materialized_partitions(RAW)
        dry = prune(instance, kept_for_an_hour, in_two_hours(), dry_run=True)
        done = prune(instance, kept_for_an_hour, in_two_hours())
        assert (dry.runs, dry.events) == (done.runs, done.events)
        assert (done.runs, done.thinned) == (1, 0)
        assert run_ids(instance) == [holder.run_id, newest.run_id]
        assert instance.get_records_for_run(superseded.run_id).records == []
        assert instance.get_materialized_partitions(RAW) == before == set(FEW)


# ---- space


def test_a_database_is_written_anew_where_most_of_it_is_free_and_nobody_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table t (a blob)")
        connection.executemany("insert into t values (zeroblob(?))", [[1_000_000]] * 40)
        connection.execute("delete from t where rowid > 30")
        # A quarter is free: it will be used again.
        assert vacuum(path) == 0
        connection.execute("delete from t where rowid > 5")
        assert used_bytes(path) < 6_000_000
        connection.execute("begin immediate")
        assert vacuum(path, patience=0.1) == 0
        connection.execute("rollback")
        assert vacuum(path) > 30_000_000
        assert path.stat().st_size < 6_000_000
        assert connection.execute("select count(*), sum(length(a)) from t").fetchall() == [(5, 5_000_000)]
