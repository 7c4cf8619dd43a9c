"""How long a finished run is kept after newer runs have superseded it."""

from datetime import timedelta

import dagster as dg
from dagster import DagsterRunStatus

from refresh_pipeline.market.partition_ranges import RANGE_START
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe

# Bars of the shortest timeframe of a run for which it is kept. A wide run of a tick of 487 series takes 1.3 MB, 120 of
# them 0.2 GB; a longer timeframe has no more runs than that.
BARS_KEPT = 120
LONGEST_KEPT = timedelta(days=30)
# Backups, maintenance and all other runs that refresh nothing.
OTHERS_KEPT = timedelta(days=7)
# The reason of a failure is needed later, after a weekend for instance.
FAILED_KEPT = timedelta(days=3)
PARTITION = "dagster/partition"
# The shortest timeframe of a run that has no range of partitions: a live run.
TIMEFRAME_TAG = ".dagster/refresh_timeframe"


def retention_of(run: dg.DagsterRun) -> timedelta:
    """How long a finished run is kept once newer ones have superseded it."""
    timeframe = shortest_timeframe(run)
    kept = OTHERS_KEPT if timeframe is None else retention_of_timeframe(timeframe)
    return kept if run.status is DagsterRunStatus.SUCCESS else max(kept, FAILED_KEPT)


def retention_of_timeframe(timeframe: Timeframe) -> timedelta:
    """How long a run is kept that refreshed nothing shorter than this.

    >>> [str(retention_of_timeframe(each)) for each in (Timeframe.m1, Timeframe.m15, Timeframe.H1, Timeframe.D1)]
    ['2:00:00', '1 day, 6:00:00', '5 days, 0:00:00', '30 days, 0:00:00']
    """
    return min(BARS_KEPT * timedelta(minutes=timeframe.minutes), LONGEST_KEPT)


def shortest_timeframe(run: dg.DagsterRun) -> Timeframe | None:
    """The shortest timeframe in the run's range of partitions, or of its only one; None where it has none of ours."""
    if named := run.tags.get(TIMEFRAME_TAG):
        return Timeframe.parse(named)
    # A range begins with its shortest timeframe, as the grid does.
    key = run.tags.get(RANGE_START) or run.tags.get(PARTITION)
    try:
        return Series.from_key(key).timeframe if key else None
    except ValueError:
        return None
