"""Dagster's SQLite event log, which writes a batch of events in two transactions. Named in dagster.yaml."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, EventLogEntry, Field, StringSource
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Engine

from refresh_pipeline.instance.run_files import write_if_absent
from refresh_pipeline.instance.sqlite_storage import engine_of, is_stamped
from refresh_pipeline.settings import event_log_dir, set_dagster_variables

# Slightly more, so that rounding leaves no two events in the same whole millisecond.
MILLISECOND = 0.001_001
BATCHED = {DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_OBSERVATION}


class BatchingSqliteEventLogStorage(SqliteEventLogStorage):
    """One transaction for the run's shard and one for the index, where the shipped class takes three an event.

    Measured with 487 materializations of an asset: 0.25 to 0.5 s instead of 4 to 8.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Every process that opens this log (web server, daemon, run, CLI) gets the variables that batching needs.
        set_dagster_variables()
        self._new_file: bytes | None = None
        # The timestamp of the newest event of a batch.
        self._newest = 0.0
        # The run whose file has a connection that is kept.
        self._kept_run = ""
        super().__init__(base_dir=base_dir, inst_data=inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`base_dir` is optional: without it the log is in DAGSTER_HOME, where Dagster would put it."""
        return {"base_dir": Field(StringSource, is_required=False)}

    # The shipped method returns the base class, whatever class it is called on.
    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "BatchingSqliteEventLogStorage":
        """Called by Dagster with the settings of dagster.yaml."""
        return cls(base_dir=config_value.get("base_dir") or str(event_log_dir()), inst_data=inst_data)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store a batch of one run's materializations or observations; anything else one by one."""
        kinds = {event.dagster_event_type for event in events}
        if len(kinds) != 1 or not kinds <= BATCHED or len({event.run_id for event in events}) != 1:
            super().store_event_batch(events)
            return
        events = self._spread(events)
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as run:
            run.execute(SqlEventLogStorageTable.insert(), rows)
        with self.index_transaction() as index:
            index.execute(SqlEventLogStorageTable.insert(), rows)
            # No other process can write after the insertion: the newest ids are those of these events.
            newest = index.exec_driver_sql("select id from event_logs order by id desc limit ?", (len(rows),))
            ids = [row[0] for row in newest.fetchall()][::-1]
            self._store_asset_event_tags(index, events, ids)
            # The table of assets keeps the newest event of each asset, as single events would leave it.
            newest_of = {
                event.get_dagster_event().asset_key: (event, id_) for event, id_ in zip(events, ids, strict=True)
            }
            for event, id_ in newest_of.values():
                self._store_asset_event(index, event, id_)

    def _spread(self, events: Sequence[EventLogEntry]) -> Sequence[EventLogEntry]:
        """The events a millisecond apart: the web UI pages by timestamp, and shows one event of each millisecond.

        The last event keeps its time. Earlier ones move back, but not before an earlier batch of this process.
        """
        times = [event.timestamp for event in events]
        for number in range(len(times) - 2, -1, -1):
            if times[number + 1] - times[number] < 0.001:
                times[number] = times[number + 1] - MILLISECOND
        for number, time in enumerate(times):
            times[number] = self._newest = time if time - self._newest >= 0.001 else self._newest + MILLISECOND
        return [event._replace(timestamp=time) for event, time in zip(events, times, strict=True)]

    # If Dagster calls it differently one day, its own methods do the work, more slowly.
    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        """A connection to a run's file or to the index. The index's stays open, and that of the last run.

        The shipped method makes an engine for each, which compiles each statement anew: a sixth of a small refresh.
        """
        with self._db_lock:
            engine = engine_of(self.conn_string_for_shard(shard))
            if shard not in (INDEX_SHARD_NAME, self._kept_run):
                self._close_kept()
                self._kept_run = shard
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def dispose(self) -> None:
        """Let the file of the last run go."""
        with self._db_lock:
            self._close_kept()
        super().dispose()

    def _close_kept(self) -> None:
        if self._kept_run:
            engine_of(self.conn_string_for_shard(self._kept_run)).dispose()
            self._kept_run = ""

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:
        """Create the file of a run, with its tables.

        Dagster reads ninety migration scripts to see whether a file needs any: 60 ms for a new file, 25 ms in every
        other process that opens it. A stamped file needs none, and a new file is a copy of the last new one.
        """
        path = Path(engine.url.database or "")
        if for_index_shard or not path.name:
            super()._initdb(engine, for_index_shard)
            return
        is_new = not path.exists()
        if is_stamped(path) if not is_new else self._new_file is not None and write_if_absent(path, self._new_file):
            return
        super()._initdb(engine, for_index_shard)
        engine.dispose()
        # With a journal beside it the file is incomplete.
        if is_new and not path.with_name(f"{path.name}-wal").exists():
            self._new_file = path.read_bytes()
