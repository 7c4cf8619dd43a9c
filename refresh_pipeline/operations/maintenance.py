"""Compaction of every market's older rows, within the seconds of a night.

How rows are ordered is `warehouse.compaction`'s part. Pruning runs is `instance.run_pruning`'s, the schedule is
`orchestration.maintenance_job`'s.
"""

import time
from collections.abc import Sequence
from datetime import datetime

from refresh_pipeline.api_files import load_usable
from refresh_pipeline.market.model import Market
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.compaction import CompactionResult
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.snapshots import prepare
from refresh_pipeline.warehouse.warehouse import Warehouse

# At most so many seconds a night; the rest follows in the next night.
SECONDS_A_NIGHT = 600.0


def compact(settings: Settings, markets: Sequence[Market], now: datetime) -> CompactionResult:
    """Compact every market's older rows, and delete old rejected candles and old payloads of APIs.

    Raises:
        WarehouseBusy: another process held the file's lock for too long.
        WarehouseUnreadable: DuckDB cannot open the file.
    """
    warehouse, result = Warehouse(database=settings.warehouse), CompactionResult()
    if not warehouse.exists:
        return result
    prune_snapshots(warehouse, settings, now)
    until = time.monotonic() + SECONDS_A_NIGHT
    for market in markets:
        warehouse.prepare(market)
        result += warehouse.compact(market, now, until - time.monotonic())
    return result


def prune_snapshots(warehouse: Warehouse, settings: Settings, now: datetime) -> int:
    """Delete payloads that are more or older than their APIs keep; gives how many."""
    collections, _ = load_usable(settings)
    count = 0
    for collection in collections:
        prepare(warehouse.get_connection, collection)
        with warehouse.get_connection() as connection, transaction(connection):
            count += snapshots.prune(connection, collection, now)
    return count


def pending_compaction(settings: Settings, markets: Sequence[Market], now: datetime) -> int:
    """How many rows `compact` would rewrite, given enough time."""
    warehouse = Warehouse(database=settings.warehouse)
    if not warehouse.exists:
        return 0
    for market in markets:
        warehouse.prepare(market)
    return sum(warehouse.pending_compaction(market, now) for market in markets)


def compaction_summary(result: CompactionResult) -> str:
    """The result of a compaction in one line."""
    return (
        f"brought {result.rows:,} rows into order; the warehouse was held for {result.longest:.1f} s at a time, at most"
        if result.rows
        else "no rows to bring into order"
    )
