"""Dagster's SQLite event log, with batches written as batches. Named in dagster.yaml; used by whoever loads it."""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import Field, StringSource
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData

from refresh_pipeline.settings import event_log_dir, set_dagster_variables

BATCHED = {DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_OBSERVATION}


class BatchingSqliteEventLogStorage(SqliteEventLogStorage):
    """One transaction for the run's shard and one for the index, where the shipped class takes three an event.

    Measured with 487 materializations of an asset: 0.25 to 0.5 s instead of 4 to 8.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Whoever opens this log (web server, daemon, run, CLI) gets the variables that batching needs.
        set_dagster_variables()
        super().__init__(base_dir=base_dir, inst_data=inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`base_dir` may be left out: then it lies where Dagster would put it, in DAGSTER_HOME."""
        return {"base_dir": Field(StringSource, is_required=False)}

    # The shipped method returns the base class, whatever class it is called on.
    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "BatchingSqliteEventLogStorage":
        """Called by Dagster with what dagster.yaml says."""
        return cls(base_dir=config_value.get("base_dir") or str(event_log_dir()), inst_data=inst_data)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store a batch of one run's materializations or observations; anything else one by one."""
        kinds = {event.dagster_event_type for event in events}
        if len(kinds) != 1 or not kinds <= BATCHED or len({event.run_id for event in events}) != 1:
            super().store_event_batch(events)
            return
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as run:
            run.execute(SqlEventLogStorageTable.insert(), rows)
        with self.index_transaction() as index:
            index.execute(SqlEventLogStorageTable.insert(), rows)
            # From the insertion on nobody else can write: the newest ids are these events'.
            newest = index.exec_driver_sql("select id from event_logs order by id desc limit ?", (len(rows),))
            ids = [row[0] for row in newest.fetchall()][::-1]
            self._store_asset_event_tags(index, events, ids)
            # Only the newest of each asset is kept in the table of assets, as each event alone would leave it.
            newest_of = {
                event.get_dagster_event().asset_key: (event, id_) for event, id_ in zip(events, ids, strict=True)
            }
            for event, id_ in newest_of.values():
                self._store_asset_event(index, event, id_)
