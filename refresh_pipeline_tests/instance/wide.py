"""A wide run in miniature: two assets over a grid of instruments, some of which fail, on an instance of its own."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.events.log import EventLogEntry

from refresh_pipeline.instance.event_log import BatchingSqliteEventLogStorage
from refresh_pipeline.instance.wide_run import describe_partitions, materialize_only

INSTRUMENTS = [f"A{number:03d}/USD" for number in range(487)]
GRID = dg.MultiPartitionsDefinition(
    {"instrument": dg.StaticPartitionsDefinition(INSTRUMENTS), "timeframe": dg.StaticPartitionsDefinition(["m5"])}
)
KEYS = [f"{instrument}|m5" for instrument in INSTRUMENTS]
FAILING = {KEYS[3], KEYS[480]}
RAW, COMPUTED = dg.AssetKey("raw"), dg.AssetKey("computed")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class CountingEventLog(BatchingSqliteEventLogStorage):
    """The event log as it is used, which remembers what it was given to store."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.batches: list[int] = []
        self.singles: list[str] = []
        self.index_transactions = 0
        super().__init__(*args, **kwargs)

    def store_event_batch(self, events: Collection[EventLogEntry]) -> None:
        """See the base class."""
        self.batches.append(len(events))
        super().store_event_batch([*events])

    def store_event(self, event: EventLogEntry) -> None:
        """See the base class."""
        self.singles.append(event.get_dagster_event().event_type_value if event.is_dagster_event else "message")
        super().store_event(event)

    def index_connection(self) -> Any:
        """See the base class."""
        self.index_transactions += 1
        return super().index_connection()


@contextmanager
def instance_in(folder: Path, log: type = CountingEventLog) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on files in a folder, with this event log."""
    config = {"base_dir": str(folder / "events")}
    storage = {"module": log.__module__, "class": log.__name__, "config": config}
    overrides = {"event_log_storage": storage, "telemetry": {"enabled": False}}
    folder.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.local_temp(str(folder), overrides=overrides) as instance:
        yield instance


def entries(number: int) -> dict[str, object]:
    """What is said of a partition."""
    return {"candle_count": number, "source": "test"}


def job_of(
    failing: Collection[str] = (), metadata: Mapping[str, Mapping[str, object]] | None = None
) -> dg.JobDefinition:
    """Two assets, of whose partitions these fail in the first one."""

    def outcome(context: dg.AssetExecutionContext) -> None:
        succeeded = [key for key in context.partition_keys if key not in failing]
        said = {key: entries(KEYS.index(key)) for key in succeeded} if metadata is None else metadata
        describe_partitions(context, said)
        materialize_only(context, succeeded)

    @dg.asset(partitions_def=GRID, backfill_policy=dg.BackfillPolicy.single_run())
    def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        outcome(context)
        return dg.MaterializeResult(metadata={"said of all": 1})

    @dg.asset(partitions_def=GRID, backfill_policy=dg.BackfillPolicy.single_run(), deps=[raw])
    def computed(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        outcome(context)
        return dg.MaterializeResult()

    job = dg.define_asset_job("wide", selection=[raw, computed])
    definitions = dg.Definitions(assets=[raw, computed], jobs=[job], executor=dg.in_process_executor)
    return definitions.resolve_job_def("wide")


def run_wide(
    instance: dg.DagsterInstance, job: dg.JobDefinition, first: str = KEYS[0], last: str = KEYS[-1]
) -> dg.ExecuteInProcessResult:
    """One run over a range of partitions."""
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return job.execute_in_process(instance=instance, tags=tags, run_config=QUIET)


def materializations(instance: dg.DagsterInstance, asset: dg.AssetKey) -> list[EventLogEntry]:
    """The asset's materializations, oldest first."""
    records = instance.fetch_materializations(asset, limit=2000, ascending=True).records
    return [record.event_log_entry for record in records]
