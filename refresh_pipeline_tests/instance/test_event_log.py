"""The batching event log: it leaves behind what the shipped one does, it is the one that is used, and it batches."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqliteEventLogStorage

from refresh_pipeline.instance.event_log import BatchingSqliteEventLogStorage
from refresh_pipeline.instance.run_files import write_if_absent
from refresh_pipeline.instance.sqlite_storage import is_stamped
from refresh_pipeline.settings import DAGSTER_VARIABLES, shipped
from refresh_pipeline_tests.instance.wide import (
    COMPUTED,
    KEYS,
    RAW,
    CountingEventLog,
    instance_in,
)


def log_of(instance: dg.DagsterInstance) -> CountingEventLog:
    log = instance.event_log_storage
    assert isinstance(log, CountingEventLog)
    return log


# ---- it is used


def test_a_wide_run_stores_each_assets_materializations_in_one_batch(instance: dg.DagsterInstance):
    log = log_of(instance)
    # What the run plans comes as a batch too: one event an asset, not one a partition.
    assert log.batches == [2, 485, 485] * 2
    assert DagsterEventType.ASSET_MATERIALIZATION.value not in log.singles
    assert log.singles.count(DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value) == 4


def test_a_batch_takes_one_transaction_of_the_index(tmp_path: Path, instance: dg.DagsterInstance):
    events = [*stored_events(instance)]
    with instance_in(tmp_path) as other:
        log = log_of(other)
        before = log.index_transactions
        log.store_event_batch(events[:485])
        assert log.index_transactions - before == 1


def test_dagsters_shipped_yaml_loads_it_and_batches(tmp_path: Path):
    config = yaml.safe_load(shipped("dagster.yaml").read_text())
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    os.environ["DAGSTER_HOME"] = str(tmp_path)
    with dg.DagsterInstance.get() as instance:
        log = instance.event_log_storage
        assert type(log) is BatchingSqliteEventLogStorage
        assert {name: os.environ[name] for name in DAGSTER_VARIABLES} == DAGSTER_VARIABLES
        assert instance._is_batch_writing_enabled()


def test_what_the_user_set_otherwise_stays(tmp_path: Path):
    os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "7"
    BatchingSqliteEventLogStorage(str(tmp_path))
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == "7"


def test_from_what_the_yaml_says_comes_this_class_and_not_the_shipped_one(tmp_path: Path):
    for kind in (BatchingSqliteEventLogStorage, CountingEventLog):
        log = kind.from_config_value(None, {"base_dir": str(tmp_path / "here")})
        assert type(log) is kind
        assert log.path_for_shard("index") == str(tmp_path / "here" / "index.db")


def test_without_a_folder_it_lies_where_the_shipped_one_would(tmp_path: Path):
    os.environ["DAGSTER_HOME"] = str(tmp_path)
    (tmp_path / "dagster.yaml").touch()
    with dg.DagsterInstance.get() as instance:
        shipped_log = instance.event_log_storage
        assert isinstance(shipped_log, SqliteEventLogStorage)
        place = shipped_log.path_for_shard("index")
    assert BatchingSqliteEventLogStorage.from_config_value(None, {}).path_for_shard("index") == place


# ---- it leaves behind what the shipped one does


def stored_events(instance: dg.DagsterInstance) -> Iterator[EventLogEntry]:
    """The materializations of every asset and run, as they were stored."""
    for run_id in reversed([run.run_id for run in instance.get_runs()]):
        records = instance.get_records_for_run(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION).records
        yield from (record.event_log_entry for record in records)


@dataclass(frozen=True)
class Two:
    """The shipped event log, which stored each event alone, and the batching one, which stored them in batches."""

    shipped: SqliteEventLogStorage
    batching: SqliteEventLogStorage

    def agree(self, question: Any) -> Any:
        answer = question(self.shipped)
        assert question(self.batching) == answer
        return answer


def opened(folder: Path, log: type, stack: ExitStack) -> SqliteEventLogStorage:
    instance = stack.enter_context(instance_in(folder, log))
    storage = instance.event_log_storage
    assert type(storage) is log or log is SqliteEventLogStorage
    assert isinstance(storage, SqliteEventLogStorage)
    return storage


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance) -> Iterator[Two]:
    """The same events in both, some of each asset and run."""
    events = [*stored_events(instance)]
    batches = [events[start : start + 20] for start in range(0, len(events), 485)]
    with ExitStack() as stack:
        shipped_log = opened(tmp_path_factory.mktemp("shipped"), SqliteEventLogStorage, stack)
        batching = opened(tmp_path_factory.mktemp("batching"), BatchingSqliteEventLogStorage, stack)
        for batch in batches:
            for event in batch:
                shipped_log.store_event(event)
            batching.store_event_batch(batch)
        yield Two(shipped_log, batching)


def test_both_know_the_same_assets_and_their_newest_materializations(two: Two):
    assert set(two.agree(lambda log: log.all_asset_keys())) == {RAW, COMPUTED}
    newest = two.agree(lambda log: log.get_latest_materialization_events([RAW, COMPUTED]))
    assert newest[RAW].dagster_event.partition in KEYS
    [record, _] = two.agree(lambda log: [each.asset_entry for each in log.get_asset_records([RAW, COMPUTED])])
    assert record.last_run_id == newest[RAW].run_id


def test_both_know_the_same_partitions_and_their_newest_tags(two: Two):
    kind = DagsterEventType.ASSET_MATERIALIZATION
    for asset in (RAW, COMPUTED):
        assert len(two.agree(lambda log, asset=asset: log.get_materialized_partitions(asset))) == 20
        latest = two.agree(lambda log, asset=asset: log.get_latest_storage_id_by_partition(asset, kind))
        assert len(latest) == 20
        tags = two.agree(
            lambda log, asset=asset: log.get_latest_tags_by_partition(asset, kind, ["dagster/partition/instrument"])
        )
        assert tags == {key: {"dagster/partition/instrument": key.removesuffix("|m5")} for key in latest}


def test_both_tell_the_same_materializations_one_by_one(two: Two):
    records = two.agree(lambda log: log.fetch_materializations(RAW, limit=100).records)
    assert len(records) == 40
    ids = [record.storage_id for record in records]
    assert ids == sorted(ids, reverse=True)
    part = two.agree(
        lambda log: (
            log.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=RAW, asset_partitions=[KEYS[5]], after_storage_id=10), limit=100
            ).records
        )
    )
    assert [record.partition_key for record in part] == [KEYS[5], KEYS[5]][: len(part)]
    summaries = two.agree(lambda log: log.get_asset_event_summary_records(DagsterEventType.ASSET_MATERIALIZATION, RAW))
    assert len(summaries) == 40
    tags = two.agree(lambda log: log.get_event_tags_for_asset(RAW, filter_event_id=ids[0]))
    assert isinstance(tags, Sequence)


def test_both_tell_the_same_of_each_run(two: Two):
    runs = two.agree(lambda log: sorted(log.get_all_run_ids()))
    assert len(runs) == 2
    for run_id in runs:
        assert len(two.agree(lambda log, run_id=run_id: log.get_logs_for_run(run_id))) == 40
        assert len(two.agree(lambda log, run_id=run_id: log.get_records_for_run(run_id, limit=7).records)) == 7
        two.agree(lambda log, run_id=run_id: log.get_stats_for_run(run_id))
        two.agree(lambda log, run_id=run_id: log.get_step_stats_for_run(run_id))
        partitions = two.agree(lambda log, run_id=run_id: log.get_asset_partitions_for_run(run_id))
        assert {asset: len(keys) for asset, keys in partitions.items()} == {RAW: 20, COMPUTED: 20}


@pytest.mark.parametrize("table", ["event_logs", "asset_keys", "asset_event_tags"])
def test_the_rows_of_the_index_are_the_same(two: Two, table: str):
    columns = {
        "event_logs": "id, run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition",
        "asset_keys": "asset_key, last_materialization, last_run_id, last_materialization_timestamp",
        "asset_event_tags": "event_id, asset_key, key, value, event_timestamp",
    }

    def rows(log: SqliteEventLogStorage) -> list[tuple]:
        connection = sqlite3.connect(log.path_for_shard("index"))
        try:
            return connection.execute(f"select {columns[table]} from {table} order by 1, 3, 4").fetchall()
        finally:
            connection.close()

    assert two.agree(rows)


def test_events_of_a_batch_are_at_least_a_millisecond_apart_in_their_order(
    tmp_path: Path, instance: dg.DagsterInstance
):
    # Dagster's pages show one event of each millisecond.
    events = [event._replace(timestamp=1_780_000_000.5) for event in [*stored_events(instance)][:30]]
    with ExitStack() as stack:
        log = opened(tmp_path, BatchingSqliteEventLogStorage, stack)
        for batch in (events[:20], events[20:]):
            log.store_event_batch(batch)
        stored = [event.timestamp for event in log.get_logs_for_run(events[0].run_id)]
    milliseconds = [int(time * 1000) for time in stored]
    assert milliseconds == sorted(set(milliseconds))
    assert len(stored) == 30
    # The last of a batch keeps its time, unless another batch has just taken it.
    assert stored[19] == 1_780_000_000.5 > stored[0] > 1_780_000_000.4
    assert stored[-1] < 1_780_000_000.6


# ---- what is no batch of one run's materializations


def test_events_of_several_assets_in_one_batch_leave_each_asset_its_newest(
    tmp_path: Path, instance: dg.DagsterInstance
):
    events = [*stored_events(instance)][480:490]
    assert len({event.get_dagster_event().asset_key for event in events}) == 2
    with ExitStack() as stack:
        shipped_log = opened(tmp_path / "a", SqliteEventLogStorage, stack)
        batching = opened(tmp_path / "b", BatchingSqliteEventLogStorage, stack)
        for event in events:
            shipped_log.store_event(event)
        batching.store_event_batch(events)
        newest = Two(shipped_log, batching).agree(lambda log: log.get_latest_materialization_events([RAW, COMPUTED]))
        assert newest == {RAW: events[4], COMPUTED: events[-1]}


def test_a_mixed_batch_is_stored_one_by_one(tmp_path: Path, instance: dg.DagsterInstance):
    [newest, oldest] = instance.get_runs()
    every = [record.event_log_entry for record in instance.get_records_for_run(newest.run_id).records]
    mixed = [event for event in every if event.is_dagster_event][:12]
    materialized = DagsterEventType.ASSET_MATERIALIZATION
    two_runs = [
        instance.get_records_for_run(run.run_id, of_type=materialized, limit=1).records[0].event_log_entry
        for run in (newest, oldest)
    ]
    with ExitStack() as stack:
        log = opened(tmp_path, CountingEventLog, stack)
        assert isinstance(log, CountingEventLog)
        for batch in (mixed, two_runs):
            log.singles.clear()
            log.store_event_batch(batch)
            assert len(log.singles) == len(batch)
        log.store_event_batch([])
        stored = [event for run in (newest, oldest) for event in log.get_logs_for_run(run.run_id)]
    assert {str(event) for event in stored} == {str(event) for event in (*mixed, *two_runs)}


def test_events_that_somebody_else_stores_at_the_same_time_get_their_own_tags(
    tmp_path: Path, instance: dg.DagsterInstance
):
    # Two logs over one folder, as two processes have them, one event after the other.
    events = [*stored_events(instance)]
    with ExitStack() as stack:
        log = opened(tmp_path, BatchingSqliteEventLogStorage, stack)
        other = BatchingSqliteEventLogStorage(str(tmp_path / "events"))
        for start in range(0, 60, 20):
            other.store_event(events[600 + start])
            log.store_event_batch(events[start : start + 20])
        rows = sqlite3.connect(log.path_for_shard("index"))
        try:
            found = rows.execute(
                "select count(*), count(distinct t.event_id) from asset_event_tags t join event_logs e "
                "on e.id = t.event_id and e.partition = t.value || '|m5' where t.key = 'dagster/partition/instrument'"
            ).fetchall()
        finally:
            rows.close()
    assert found == [(63, 63)]


# ---- the files of runs


def tables_in(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        made = connection.execute("select sql from sqlite_master order by name").fetchall()
        return [*made, *connection.execute("select * from alembic_version union all select 'wal'").fetchall()]


def journal_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("pragma journal_mode").fetchall()[0][0]


def test_the_file_of_a_later_run_is_the_one_that_dagster_makes(tmp_path: Path):
    log = BatchingSqliteEventLogStorage(str(tmp_path))
    for run_id in ("first", "second", "third"):
        with log.run_connection(run_id) as connection:
            connection.exec_driver_sql("insert into event_logs (run_id, event, timestamp) values (?, '', 0)", (run_id,))
    shipped_log = SqliteEventLogStorage(str(tmp_path / "shipped"))
    with shipped_log.run_connection("first"):
        pass
    expected = tables_in(tmp_path / "shipped" / "first.db")
    for run_id in ("first", "second", "third"):
        path = tmp_path / f"{run_id}.db"
        assert tables_in(path) == expected
        assert journal_of(path) == "wal"
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("select run_id from event_logs").fetchall() == [(run_id,)]
    log.dispose()
    # The index stays open, so that it may have a log beside it.
    assert {path.name for path in tmp_path.iterdir() if path.is_file() and path.stem != "index"} == {
        *(f"{name}.db" for name in ("first", "second", "third"))
    }


def test_a_file_that_another_process_has_made_meanwhile_is_left_as_it_is(tmp_path: Path):
    log = BatchingSqliteEventLogStorage(str(tmp_path))
    with log.run_connection("first"):
        pass
    (tmp_path / "second.db").write_bytes(b"")
    assert not write_if_absent(tmp_path / "second.db", b"other")
    # An empty file is what SQLite itself leaves when it is only opened.
    with log.run_connection("second"):
        pass
    assert tables_in(tmp_path / "second.db") == tables_in(tmp_path / "first.db")
    assert is_stamped(tmp_path / "second.db")
    assert not is_stamped(tmp_path / "none.db")


def test_dagster_still_makes_the_files_of_runs_where_it_is_overridden(tmp_path: Path):
    calls = []

    class Watched(BatchingSqliteEventLogStorage):
        def _initdb(self, engine: Any, for_index_shard: bool = False) -> None:
            calls.append((Path(engine.url.database).name, for_index_shard))
            super()._initdb(engine, for_index_shard)

    with Watched(str(tmp_path)).run_connection("first"):
        pass
    assert ("first.db", False) in calls
