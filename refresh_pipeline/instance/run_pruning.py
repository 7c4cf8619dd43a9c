"""Pruning: deletes superseded runs from Dagster's databases, with their events, files and logs.

The caller says how long a run is kept. Never pruned are: a run that is going; the newest run of each job, status and
schedule; a run that holds the newest materialization or observation of a partition, the newest evaluation of a check,
or an attempt at a partition that was not materialized since. Such a run loses only its superseded events.

Events that belong to no run (states of freshness, materializations that another program reported) go after a week, but
for the newest of each asset, partition and kind.

On SQLite, Dagster's public way takes several transactions per run and leaves the run's file behind. Here events are
deleted by the thousand, and files as files. On other databases runs are deleted the public way.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

import dagster as dg
import sqlalchemy as db
from dagster import DagsterEventType, RunsFilter
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable

from refresh_pipeline.instance.run_files import RunFiles, databases, delete_files, size_of, used_bytes, vacuum

Item = TypeVar("Item")
# How long a finished run is kept, whatever it was.
KeptFor = Callable[[dg.DagsterRun], timedelta]

MADE = DagsterEventType.ASSET_MATERIALIZATION.value
OBSERVED = DagsterEventType.ASSET_OBSERVATION.value
CHECKED = DagsterEventType.ASSET_CHECK_EVALUATION.value
PLANNED = DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value
# Runs per question, and events per transaction: other writers wait for less than a second, and get their turn in the
# pause between two transactions (a waiting SQLite connection tries again every tenth of a second).
RUNS_AT_ONCE = 1000
EVENTS_AT_ONCE = 10_000
PAUSE = 0.1
# Many builds of SQLite overwrite deleted rows with zeros, which takes twice the time; no event is a secret.
QUICKLY = "pragma secure_delete = off"
# As long as runs that refresh nothing.
RUNLESS_KEPT = timedelta(days=7)
# Values per statement, well below SQLite's limit.
VALUES_AT_ONCE = 10_000
WHO_ASKED = ("dagster/schedule_name", "dagster/sensor_name")
EVENTS, TAGS, CHECKS = SqlEventLogStorageTable.c, AssetEventTagsTable.c, AssetCheckExecutionsTable.c


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, or would be.

    `runs` went as a whole, `thinned` stay for something newest and lost what else they held; `events` are those of all
    runs together, `orphans` runs of which there were files alone. `bytes` are those of files and of pages that are free
    now; `given_back` is how much the databases' files shrank.
    """

    runs: int = 0
    thinned: int = 0
    events: int = 0
    orphans: int = 0
    bytes: int = 0
    given_back: int = 0


def prune(instance: dg.DagsterInstance, kept_for: KeptFor, now: datetime, *, dry_run: bool = False) -> Pruned:
    """Delete what has been superseded for longer than it is kept; killed at any moment, the next call goes on.

    Raises:
        TypeError: Dagster's storage is none that is kept in SQL.
    """
    work = Pruning.of(instance, now, kept_for)
    return work.expected() if dry_run else work.done()


@dataclass(frozen=True, slots=True)
class Pruning:
    """What is to be deleted: whole runs (oldest first), superseded events of other runs, files without a run."""

    instance: dg.DagsterInstance
    log: SqlEventLogStorage
    runs: Sequence[str]
    # The superseded events of runs that stay.
    superseded: dict[str, list[int]]
    orphans: Sequence[str]
    # Superseded events of no run that are older than this go; seconds since 1970.
    runless_before: float

    @classmethod
    def of(cls, instance: dg.DagsterInstance, now: datetime, kept_for: KeptFor) -> "Pruning":
        """Find what is to be deleted."""
        log = instance.event_log_storage
        if not isinstance(log, SqlEventLogStorage) or not isinstance(instance.run_storage, SqlRunStorage):
            raise TypeError(
                f"wanted event log and runs in SQL, found {type(log).__name__}: prune them by its own means"
            )
        known, due = _looked_through(instance, kept_for, now)
        with log.index_connection() as connection:
            newest = _newest_events(connection)
            holding = _runs_of_events(connection, newest) | _runs_of_newest_checks(connection)
            # Where events of a run lie in one place only, what is deleted there would be missing on its page.
            thinned = [run_id for run_id in due if run_id in holding] if log.is_run_sharded else []
            superseded = {run_id: events for run_id in thinned if (events := _superseded(connection, run_id, newest))}
        orphans = sorted(RunFiles.of(instance).orphans(known, now))
        runs = [run_id for run_id in due if run_id not in holding]
        return cls(instance, log, runs, superseded, orphans, (now - RUNLESS_KEPT).timestamp())

    def expected(self) -> Pruned:
        """What would be deleted, with an estimate of bytes."""
        events = sum(self._events_of_runs().values()) + sum(map(len, self.superseded.values()))
        with self.log.index_connection() as connection:
            events += len(_superseded_runless(connection, self.runless_before))
        with self.log.index_connection() as connection:
            [(total,)] = connection.execute(db.select(db.func.count()).select_from(SqlEventLogStorageTable)).fetchall()
        shared = sum(used_bytes(path) for path in databases(self.instance)) * events // max(total, 1)
        files = RunFiles.of(self.instance)
        file_bytes = sum(size_of(files.of_run(run_id)) for run_id in (*self.runs, *self.orphans))
        return Pruned(len(self.runs), len(self.superseded), events, len(self.orphans), file_bytes + shared)

    def done(self) -> Pruned:
        """Delete it."""
        shared = databases(self.instance)
        before = sum(map(used_bytes, shared))
        events = sum(map(len, self.superseded.values())) + sum(self._events_of_runs().values())
        freed = self._delete_in_bulk() if self.log.is_run_sharded else self._delete_publicly()
        self._delete_superseded_events()
        events += self._delete_runless()
        files = RunFiles.of(self.instance)
        freed += sum(delete_files(files.of_run(run_id)) for run_id in self.orphans)
        freed += before - sum(map(used_bytes, shared))
        given_back = sum(map(vacuum, shared))
        return Pruned(len(self.runs), len(self.superseded), events, len(self.orphans), max(freed, 0), given_back)

    def _events_of_runs(self) -> dict[str, int]:
        """The number of events of each deleted run in the tables that all runs share."""
        counts = dict.fromkeys(self.runs, 0)
        with self.log.index_connection() as connection:
            for run_ids in _by(VALUES_AT_ONCE, self.runs):
                question = db.select(EVENTS.run_id, db.func.count()).where(EVENTS.run_id.in_(run_ids))
                counts |= {row[0]: row[1] for row in connection.execute(question.group_by(EVENTS.run_id)).fetchall()}
        return counts

    def _delete_superseded_events(self) -> None:
        for event_ids in _by(EVENTS_AT_ONCE, [event for events in self.superseded.values() for event in events]):
            with self.log.index_connection() as connection:
                connection.exec_driver_sql(QUICKLY)
                _delete_events(connection, event_ids)
            time.sleep(PAUSE)

    def _delete_runless(self) -> int:
        """Delete superseded events of no run; returns how many are gone from the index."""
        with self.log.index_connection() as connection:
            count = _delete_events(connection, _superseded_runless(connection, self.runless_before))
        if self.log.is_run_sharded and any(path.exists() for path in RunFiles.of(self.instance).of_run(RUNLESS_RUN_ID)):
            with self.log.run_connection(RUNLESS_RUN_ID) as connection:
                _delete_events(connection, _superseded_runless(connection, self.runless_before))
        return count

    def _delete_in_bulk(self) -> int:
        files = RunFiles.of(self.instance)
        # First, because it needs no room on the disk: deleting rows does.
        freed = sum(delete_files(files.of_run(run_id)) for run_id in self.runs)
        for run_ids in self._batches():
            with self.log.index_connection() as connection:
                connection.exec_driver_sql(QUICKLY)
                event_ids = db.select(EVENTS.id).where(EVENTS.run_id.in_(run_ids))
                connection.execute(AssetEventTagsTable.delete().where(TAGS.event_id.in_(event_ids)))
                connection.execute(SqlEventLogStorageTable.delete().where(EVENTS.run_id.in_(run_ids)))
                connection.execute(AssetCheckExecutionsTable.delete().where(CHECKS.run_id.in_(run_ids)))
            # Last, so that a run is found again while anything is left of it.
            _delete_runs(self.instance.run_storage, run_ids)
            time.sleep(PAUSE)
        return freed

    def _delete_publicly(self) -> int:
        files, freed = RunFiles.of(self.instance), 0
        for run_id in self.runs:
            freed += delete_files(files.of_run(run_id))
            self.instance.compute_log_manager.delete_logs(prefix=[run_id])
            self.instance.delete_run(run_id)
        return freed

    def _batches(self) -> Iterator[list[str]]:
        """Batches of runs, each small enough for a short transaction."""
        batch: list[str] = []
        size = 0
        for run_id, events in self._events_of_runs().items():
            if batch and size + events > EVENTS_AT_ONCE:
                yield batch
                batch, size = [], 0
            batch.append(run_id)
            size += events
        if batch:
            yield batch


# ---- which runs are due


def _looked_through(instance: dg.DagsterInstance, kept_for: KeptFor, now: datetime) -> tuple[set[str], list[str]]:
    """All runs, and those that have been kept for long enough, oldest first."""
    known, due, met = set[str](), list[str](), set[tuple[object, ...]]()
    going = _going_backfills(instance)
    for record in _records(instance):
        run = record.dagster_run
        known.add(run.run_id)
        kind = (run.job_name, run.status, *(run.tags.get(tag) for tag in WHO_ASKED))
        if kind in met and run.tags.get("dagster/backfill") not in going and _is_over(record, kept_for, now):
            due.append(run.run_id)
        met.add(kind)
    return known, due[::-1]


def _records(instance: dg.DagsterInstance) -> Iterator[dg.RunRecord]:
    """Every run, newest first."""
    cursor = None
    while records := instance.get_run_records(RunsFilter(), limit=RUNS_AT_ONCE, cursor=cursor):
        yield from records
        cursor = records[-1].dagster_run.run_id


def _is_over(record: dg.RunRecord, kept_for: KeptFor, now: datetime) -> bool:
    ended = record.end_time or record.update_timestamp.timestamp()
    is_finished = record.dagster_run.status in FINISHED_STATUSES
    return is_finished and now.timestamp() - ended > kept_for(record.dagster_run).total_seconds()


def _going_backfills(instance: dg.DagsterInstance) -> set[str | None]:
    """Backfills of the web UI that still count their runs."""
    statuses = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]
    return {backfill.backfill_id for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=statuses))}


# ---- what is newest


def _newest_events(connection: db.engine.Connection) -> set[int]:
    """The events that hold the state of partitions: the last materialization or observation, or an attempt since."""
    # An index of Dagster's holds these very columns, so that no event is read.
    newest = db.select(EVENTS.asset_key, EVENTS.partition, EVENTS.dagster_event_type, db.func.max(EVENTS.id))
    newest = newest.where(EVENTS.dagster_event_type.in_([MADE, OBSERVED, PLANNED]), EVENTS.asset_key.is_not(None))
    rows = connection.execute(newest.group_by(EVENTS.asset_key, EVENTS.dagster_event_type, EVENTS.partition)).fetchall()
    made = {(row[0], row[1]): row[3] for row in rows if row[2] == MADE}
    return {row[3] for row in rows if row[2] != PLANNED or row[3] > made.get((row[0], row[1]), 0)}


def _runs_of_events(connection: db.engine.Connection, events: set[int]) -> set[str]:
    runs: set[str] = set()
    for event_ids in _by(VALUES_AT_ONCE, sorted(events)):
        runs |= {
            row[0] for row in connection.execute(db.select(EVENTS.run_id).where(EVENTS.id.in_(event_ids))).fetchall()
        }
    return runs


def _runs_of_newest_checks(connection: db.engine.Connection) -> set[str]:
    """The runs of each check's newest execution, and of the newest one that came to an end."""
    runs: set[str] = set()
    for among in (db.true(), CHECKS.execution_status != "PLANNED"):
        by = (CHECKS.asset_key, CHECKS.check_name, CHECKS.partition)
        newest = db.select(db.func.max(CHECKS.id)).where(among).group_by(*by)
        runs |= {row[0] for row in connection.execute(db.select(CHECKS.run_id).where(CHECKS.id.in_(newest))).fetchall()}
    return runs


def _superseded(connection: db.engine.Connection, run_id: str, newest: set[int]) -> list[int]:
    made = db.select(EVENTS.id).where(EVENTS.run_id == run_id, EVENTS.dagster_event_type.in_([MADE, OBSERVED]))
    return [row[0] for row in connection.execute(made).fetchall() if row[0] not in newest]


def _superseded_runless(connection: db.engine.Connection, before: float) -> list[int]:
    """Events of no run that are older than an instant, but for the newest of each asset, partition and kind.

    Evaluations of checks stay, since a table of their own points to them.
    """
    mine = db.and_(EVENTS.run_id == RUNLESS_RUN_ID, EVENTS.dagster_event_type != CHECKED)
    newest = db.select(db.func.max(EVENTS.id)).where(mine)
    newest = newest.group_by(EVENTS.asset_key, EVENTS.partition, EVENTS.dagster_event_type)
    # Dagster stores timestamps of SQLite in UTC without a zone.
    old = EVENTS.timestamp < datetime.fromtimestamp(before, UTC).replace(tzinfo=None)
    chosen = db.select(EVENTS.id).where(mine, old, EVENTS.id.not_in(newest))
    return [row[0] for row in connection.execute(chosen).fetchall()]


# ---- deleting


def _delete_events(connection: db.engine.Connection, event_ids: Sequence[int]) -> int:
    for ids in _by(EVENTS_AT_ONCE, event_ids):
        connection.execute(AssetEventTagsTable.delete().where(TAGS.event_id.in_(ids)))
        connection.execute(SqlEventLogStorageTable.delete().where(EVENTS.id.in_(ids)))
    return len(event_ids)


def _delete_runs(storage: Any, run_ids: Sequence[str]) -> None:
    with storage.connect() as connection:
        connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id.in_(run_ids)))
        connection.execute(RunsTable.delete().where(RunsTable.c.run_id.in_(run_ids)))


def _by(count: int, items: Sequence[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, count)):
        yield batch
