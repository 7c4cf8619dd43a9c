"""Compaction of every market's older rows, within the seconds of a night.

How rows are ordered is `warehouse.compaction`'s part. Pruning runs is `instance.run_pruning`'s, the schedule is
`orchestration.maintenance_job`'s.
"""

import time
from collections.abc import Sequence
from datetime import datetime

from refresh_pipeline.market.model import Market
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.compaction import CompactionResult
from refresh_pipeline.warehouse.warehouse import Warehouse

# At most so many seconds a night; the rest follows in the next night.
SECONDS_A_NIGHT = 600.0


def compact(settings: Settings, markets: Sequence[Market], now: datetime) -> CompactionResult:
    """Compact every market's older rows and delete old rejected candles.

    Raises:
        WarehouseBusy: another process held the file's lock for too long.
        WarehouseUnreadable: DuckDB cannot open the file.
    """
    warehouse, result = Warehouse(database=str(settings.database)), CompactionResult()
    if not warehouse.exists:
        return result
    until = time.monotonic() + SECONDS_A_NIGHT
    for market in markets:
        warehouse.prepare(market)
        result += warehouse.compact(market, now, until - time.monotonic())
    return result


def pending_compaction(settings: Settings, markets: Sequence[Market], now: datetime) -> int:
    """How many rows `compact` would rewrite, given enough time."""
    warehouse = Warehouse(database=str(settings.database))
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
