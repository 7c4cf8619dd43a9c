"""Maintenance: a job that prunes runs and compacts the warehouse, and its schedule, of a file or of a lake."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from refresh_pipeline.instance.run_pruning import Pruned


from refresh_pipeline.instance.orphaned_runs import claim
from refresh_pipeline.instance.queues import ON_FILES
from refresh_pipeline.instance.run_retention import retention_of
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.operations.maintenance import compact, compaction_summary
from refresh_pipeline.orchestration.schedules import utc_schedule
from refresh_pipeline.pipeline.job_names import MAINTENANCE
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable

# Away from the ticks of five minutes and more, from publishing and from the backup.
HOURLY = "37 * * * *"
# A tick leaves some files in a lake. Every reader opens them, so they are merged all day.
QUARTERLY = "7,22,37,52 * * * *"
# The hour (UTC) in which the warehouse is compacted too: before the backup, which is smaller for it.
NIGHT = 2


class PruneConfig(dg.Config):
    """Fields of the launchpad."""

    dry_run: bool = False


@dg.op(description="Deletes runs that newer ones have superseded: events, files, logs; the state of partitions stays.")
def prune_runs(context: dg.OpExecutionContext, config: PruneConfig) -> None:
    """Dagster's databases pruned; how many runs, events and bytes in the output's metadata."""
    # Late: with it come SQLAlchemy and Dagster's storages, 0.3 s that loading the definitions should not take.
    from refresh_pipeline.instance.run_pruning import prune  # noqa: PLC0415

    claim(context)
    pruned = prune(context.instance, retention_of, datetime.now(UTC), dry_run=config.dry_run)
    context.log.info(pruning_summary(pruned, dry_run=config.dry_run))
    context.add_output_metadata({"dry_run": config.dry_run, **{name: getattr(pruned, name) for name in COUNTS}})


class CompactConfig(dg.Config):
    """Fields of the launchpad."""

    wanted: bool = True


@dg.op(description="Rewrites rows of the warehouse that are a day old in the order in which reading them is fastest.")
def compact_warehouse(context: dg.OpExecutionContext, config: CompactConfig) -> None:
    """Compact every market's tables where `wanted`; rows and seconds of holding the file go into metadata."""
    if not config.wanted:
        return
    claim(context)
    settings = load_settings()
    try:
        result = compact(settings, load_markets(settings), datetime.now(UTC))
    except (WarehouseBusy, WarehouseUnreadable) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(compaction_summary(result))
    context.add_output_metadata(
        {"rows": result.rows, "pieces": result.pieces, "longest_seconds": round(result.longest, 3)}
    )


@dg.job(
    name=MAINTENANCE,
    description="Deletes superseded runs from Dagster's database and compacts old rows of the warehouse.",
    executor_def=dg.in_process_executor,
    tags=ON_FILES,
)
def maintenance_job() -> None:
    """Two steps that do not depend on each other."""
    prune_runs()
    compact_warehouse()


def _request(now: datetime) -> dg.RunRequest:
    return dg.RunRequest(run_config={"ops": {compact_warehouse.name: {"config": {"wanted": now.hour == NIGHT}}}})


maintenance_schedule = utc_schedule(
    maintenance_job, HOURLY, "Prunes runs once an hour and compacts the warehouse once a night.", _request
)

lake_maintenance_schedule = utc_schedule(
    maintenance_job,
    QUARTERLY,
    "Prunes runs and merges the files of the lake every quarter of an hour.",
    lambda _: dg.RunRequest(),
)

COUNTS = ("runs", "thinned", "events", "orphans", "bytes", "given_back")


def pruning_summary(pruned: "Pruned", *, dry_run: bool) -> str:
    """The pruned runs, events and bytes in one line.

    >>> from refresh_pipeline.instance.run_pruning import Pruned
    >>> pruning_summary(Pruned(runs=60, events=90_000, bytes=840_000_000), dry_run=True)
    'would delete 60 runs, 90,000 events, 840,000,000 bytes'
    """
    verb = "would delete" if dry_run else "deleted"
    rest = [f"superseded events of {pruned.thinned} more"] if pruned.thinned else []
    rest += [f"files of {pruned.orphans} runs that are no more"] if pruned.orphans else []
    rest += [f"databases are smaller by {pruned.given_back:,} bytes"] if pruned.given_back else []
    return "; ".join([f"{verb} {pruned.runs} runs, {pruned.events:,} events, {pruned.bytes:,} bytes", *rest])
