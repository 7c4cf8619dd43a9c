"""Keeping things small, on a clock: what Dagster remembers of old runs is pruned, old rows are brought into order.

What is deleted and how is `instance.pruning`'s, how rows lie `warehouse.layout`'s; how long a run of which timeframe is
kept, and when all of it happens, is decided here, for all markets together.
"""

import time
from collections.abc import Sequence
from datetime import datetime

from refresh_pipeline.market.model import Market
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.compaction import CompactionResult
from refresh_pipeline.warehouse.warehouse import Warehouse

# For how many seconds a night at most; what is left follows in the next.
SECONDS_A_NIGHT = 600.0


def compact(settings: Settings, markets: Sequence[Market], now: datetime) -> CompactionResult:
    """Bring every market's old rows into order, and forget what was turned away long ago; raises as `connect` does."""
    warehouse, done = Warehouse(database=str(settings.database)), CompactionResult()
    if not warehouse.exists:
        return done
    until = time.monotonic() + SECONDS_A_NIGHT
    for market in markets:
        warehouse.prepare(market)
        done += warehouse.compact(market, now, until - time.monotonic())
    return done


def pending_compaction(settings: Settings, markets: Sequence[Market], now: datetime) -> int:
    """How many rows `tidy` would bring into order, were the night long enough."""
    warehouse = Warehouse(database=str(settings.database))
    if not warehouse.exists:
        return 0
    for market in markets:
        warehouse.prepare(market)
    return sum(warehouse.pending_compaction(market, now) for market in markets)


def compaction_summary(done: CompactionResult) -> str:
    """What was brought into order, in a line."""
    return (
        f"brought {done.rows:,} rows into order; the warehouse was held for {done.longest:.1f} s at a time, at most"
        if done.rows
        else "no rows to bring into order"
    )
