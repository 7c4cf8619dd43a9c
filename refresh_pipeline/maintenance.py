"""Keeping things small, on a clock: what Dagster remembers of old runs is pruned, old rows are brought into order.

What is deleted and how is `instance.pruning`'s, how rows lie `warehouse.layout`'s; how long a run of which timeframe is
kept, and when all of it happens, is decided here, for all markets together.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterRunStatus

from refresh_pipeline.instance.orphans import claim, going_runs
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.partitions import RANGE_START
from refresh_pipeline.settings import Settings, load_markets, load_settings
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable
from refresh_pipeline.warehouse.layout import Rewritten
from refresh_pipeline.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from refresh_pipeline.instance.pruning import Pruned

NAME = "maintenance"
# Between the ticks of five minutes and more, and away from publishing and backup.
HOURLY = "37 * * * *"
# The hour (UTC) in which the warehouse is tidied as well: before the backup, which is then the smaller.
NIGHT = 2
# For how many seconds a night at most; what is left follows in the next.
SECONDS_A_NIGHT = 600.0

# A run is kept for so many bars of the shortest timeframe that it was to refresh. A wide run of 487 series leaves 14
# MB, two hours of them 1.7 GB; a longer timeframe has no more runs than that.
BARS_KEPT = 120
LONGEST_KEPT = timedelta(days=30)
# Backups, maintenance, and whatever else is no refresh.
OTHERS_KEPT = timedelta(days=7)
# Why something failed is asked for later, after a weekend for instance.
FAILED_KEPT = timedelta(days=3)
PARTITION = "dagster/partition"


def kept_for(run: dg.DagsterRun) -> timedelta:
    """How long a finished run is kept once newer ones have superseded it."""
    timeframe = shortest_timeframe(run)
    kept = OTHERS_KEPT if timeframe is None else kept_of(timeframe)
    return kept if run.status is DagsterRunStatus.SUCCESS else max(kept, FAILED_KEPT)


def kept_of(timeframe: Timeframe) -> timedelta:
    """How long a run is kept that refreshed nothing shorter than this.

    >>> [str(kept_of(each)) for each in (Timeframe.m1, Timeframe.m15, Timeframe.H1, Timeframe.D1)]
    ['2:00:00', '1 day, 6:00:00', '5 days, 0:00:00', '30 days, 0:00:00']
    """
    return min(BARS_KEPT * timedelta(minutes=timeframe.minutes), LONGEST_KEPT)


def shortest_timeframe(run: dg.DagsterRun) -> Timeframe | None:
    """The shortest timeframe in the run's range of partitions, or of its only one; None where it has none of ours."""
    # A range begins with its shortest timeframe, as the grid does.
    key = run.tags.get(RANGE_START) or run.tags.get(PARTITION)
    try:
        return Series.from_key(key).timeframe if key else None
    except ValueError:
        return None


class PruneConfig(dg.Config):
    """What the launchpad offers."""

    dry_run: bool = False


@dg.op(description="Deletes runs that newer ones have superseded: events, files, logs; the state of partitions stays.")
def prune_runs(context: dg.OpExecutionContext, config: PruneConfig) -> None:
    """Dagster's databases pruned; how many runs, events and bytes in the output's metadata."""
    # Late: with it come SQLAlchemy and Dagster's storages, 0.3 s that loading the definitions should not take.
    from refresh_pipeline.instance.pruning import prune  # noqa: PLC0415

    claim(context)
    pruned = prune(context.instance, kept_for, datetime.now(UTC), dry_run=config.dry_run)
    context.log.info(told(pruned, dry_run=config.dry_run))
    context.add_output_metadata({"dry_run": config.dry_run, **{name: getattr(pruned, name) for name in COUNTS}})


COUNTS = ("runs", "thinned", "events", "orphans", "bytes", "given_back")


def told(pruned: "Pruned", *, dry_run: bool) -> str:
    """What went, or would go, in a line.

    >>> from refresh_pipeline.instance.pruning import Pruned
    >>> told(Pruned(runs=60, events=90_000, bytes=840_000_000), dry_run=True)
    'would delete 60 runs, 90,000 events, 840,000,000 bytes'
    """
    verb = "would delete" if dry_run else "deleted"
    rest = [f"superseded events of {pruned.thinned} more"] if pruned.thinned else []
    rest += [f"files of {pruned.orphans} runs that are no more"] if pruned.orphans else []
    rest += [f"databases are smaller by {pruned.given_back:,} bytes"] if pruned.given_back else []
    return "; ".join([f"{verb} {pruned.runs} runs, {pruned.events:,} events, {pruned.bytes:,} bytes", *rest])


class TidyConfig(dg.Config):
    """What the launchpad offers."""

    wanted: bool = True


@dg.op(description="Brings rows of the warehouse that are a day old into the order in which they are read best.")
def tidy_warehouse(context: dg.OpExecutionContext, config: TidyConfig) -> None:
    """Every market's tables tidied, where it is wanted; how many rows, and how long the file was held, in metadata."""
    if not config.wanted:
        return
    claim(context)
    settings = load_settings()
    try:
        done = tidy(settings, load_markets(settings), datetime.now(UTC))
    except (WarehouseBusy, WarehouseUnreadable) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(told_of_rows(done))
    context.add_output_metadata({"rows": done.rows, "pieces": done.pieces, "longest_seconds": round(done.longest, 3)})


def tidy(settings: Settings, markets: Sequence[Market], now: datetime) -> Rewritten:
    """Bring every market's old rows into order, and forget what was turned away long ago; raises as `connect` does."""
    warehouse, done = Warehouse(database=str(settings.database)), Rewritten()
    if not warehouse.exists:
        return done
    until = time.monotonic() + SECONDS_A_NIGHT
    for market in markets:
        warehouse.prepare(market)
        done += warehouse.tidy(market, now, until - time.monotonic())
    return done


def untidy(settings: Settings, markets: Sequence[Market], now: datetime) -> int:
    """How many rows `tidy` would bring into order, were the night long enough."""
    warehouse = Warehouse(database=str(settings.database))
    if not warehouse.exists:
        return 0
    for market in markets:
        warehouse.prepare(market)
    return sum(warehouse.untidy(market, now) for market in markets)


def told_of_rows(done: Rewritten) -> str:
    """What was brought into order, in a line."""
    return (
        f"brought {done.rows:,} rows into order; the warehouse was held for {done.longest:.1f} s at a time, at most"
        if done.rows
        else "no rows to bring into order"
    )


@dg.job(
    name=NAME,
    description="Prunes what Dagster remembers of old runs, and brings the warehouse's old rows into order.",
    executor_def=dg.in_process_executor,
)
def maintenance_job() -> None:
    """One step each; what one fails at does not keep the other from its work."""
    prune_runs()
    tidy_warehouse()


@dg.schedule(
    name=NAME,
    job=maintenance_job,
    cron_schedule=HOURLY,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Prunes runs once an hour, and once a night brings the warehouse's old rows into order.",
)
def maintenance_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """A run, unless one is at it."""
    if going := going_runs(context.instance, NAME):
        return dg.SkipReason(f"the previous run is still going: {going[0].run_id}")
    wanted = context.scheduled_execution_time.hour == NIGHT
    return dg.RunRequest(run_config={"ops": {tidy_warehouse.name: {"config": {"wanted": wanted}}}})
