"""The partitions that a scheduled tick reports to Dagster as materialized: some in turn, and at once those with news.

An event of one partition takes 10 kB on disk, and the next one supersedes it. A market of few series, and every run
that no tick asked for, reports all partitions.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil

import dagster as dg
from dagster import DagsterEventType

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.orchestration.schedules import TICK_TAG, previous_tick
from refresh_pipeline.warehouse.schema import Table

# Each partition is reported within this time; one of a longer timeframe at each of its candles.
REPORTED_WITHIN = timedelta(minutes=15)
# A run of at most so many series reports all of them: half a megabyte for each asset.
FEW_SERIES = 40
# The asset that each asset of a refresh is computed from.
UPSTREAM: Mapping[str, str] = {
    Table.enhanced_candles.value: Table.raw_candles.value,
    Table.indicators.value: Table.enhanced_candles.value,
}
EventIds = Mapping[str, int]


def reported(context: dg.AssetExecutionContext, market: Market, series: Sequence[Series]) -> set[Series]:
    """The series whose partitions this step materializes, whatever the news; `series` are those that did not fail."""
    tick = context.run.tags.get(TICK_TAG)
    if tick is None or len(context.partition_keys) <= FEW_SERIES:
        return set(series)
    newest = _newest_events(context.instance, context.asset_key)
    if upstream := UPSTREAM.get(context.asset_key.path[-1]):
        above = _newest_events(context.instance, dg.AssetKey([market.name, upstream]))
        return behind(series, newest, above)
    now = datetime.fromisoformat(tick)
    previous = previous_tick(context.instance, market, now - timedelta(microseconds=1))
    return in_turn(series, newest, REPORTED_WITHIN if previous is None else now - previous)


def in_turn(series: Sequence[Series], newest: EventIds, elapsed: timedelta) -> set[Series]:
    """The series whose turn it is: those without any event, and of each timeframe a share with the oldest ones.

    Args:
        series: the candidates.
        newest: the id of each partition's newest materialization, by partition key.
        elapsed: the time since the last tick, of which the share follows.

    >>> from refresh_pipeline.market.timeframe import Timeframe
    >>> hour = [Series(name, Timeframe.H1) for name in "AB"]
    >>> minutes = [Series(f"{number}", Timeframe.m1) for number in range(24)]
    >>> ids = {each.key: number for number, each in enumerate([*minutes, *hour])}
    >>> sorted(each.instrument for each in in_turn([*hour, *minutes], ids, timedelta(minutes=1)))
    ['0', '1', 'A', 'B']
    """
    chosen = {each for each in series if each.key not in newest}
    for timeframe in {each.timeframe for each in series}:
        members = [each for each in series if each.timeframe is timeframe and each not in chosen]
        share = max(timedelta(minutes=timeframe.minutes), elapsed) / REPORTED_WITHIN
        members.sort(key=lambda each: newest[each.key])
        chosen.update(members[: ceil(len(members) * share)])
    return chosen


def behind(series: Sequence[Series], newest: EventIds, upstream: EventIds) -> set[Series]:
    """The series whose upstream partition was reported later than their own, so that no partition looks outdated."""
    return {each for each in series if upstream.get(each.key, 0) >= newest.get(each.key, 0)}


def _newest_events(instance: dg.DagsterInstance, asset: dg.AssetKey) -> EventIds:
    return instance.event_log_storage.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION)
