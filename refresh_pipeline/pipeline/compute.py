"""Computed tables brought up to date, series by series."""

import time
from collections.abc import Sequence
from functools import partial

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline.progress import advance
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse


def compute(warehouse: Warehouse, market: Market, table: Table, batch: Sequence[Series]) -> dict[Series, Attempt]:
    """Make a computed table current for every series of the batch whose candles changed."""
    began = time.monotonic()
    recomputed = warehouse.refresh_tail(market, table, batch, progress=partial(advance, table))
    others = [series for series in batch if series not in recomputed]
    stats = warehouse.series_stats(market, others) if others else {}
    share = (time.monotonic() - began) / max(len(recomputed), 1)
    advance(table, len(batch), len(batch))
    attempts = {s: Attempt.of(changed=False, has_data=stats[s].candle_count > 0) for s in others}
    for series, rows in recomputed.items():
        attempts[series] = Attempt(Outcome.updated, rows_added=rows.added, rows_revised=rows.revised, seconds=share)
    return {series: attempts[series] for series in batch}
