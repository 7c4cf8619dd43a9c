"""The values of every computed column in a few numbers, with the version of its formula.

`python -m refresh_pipeline_tests.analytics.column_values` writes the file anew, after a formula's `version` was raised.
"""

import json
import zlib

import numpy as np

from refresh_pipeline.analytics.bars import Computation, Values
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline_tests.analytics.sample_bars import INDICATORS, OWN_GOLDEN, Market, history, stacked

FILE = OWN_GOLDEN / "column_values.json"
MARKETS = (
    Market(bars=1300),
    Market(bars=900, volatility=0.002, price=0.08, tick=0.0001, halted=120, seed=1),
)


def measured() -> dict[str, list[float]]:
    """For each column of both tables: version, known values, sum of positions, sum and weighted sum of values."""
    bars = stacked([history(market) for market in MARKETS])
    return {
        f"{table.name}.{name}": [version_of(table, name), *_numbers(values)]
        for table in (ENHANCED_CANDLES, INDICATORS)
        for name, values in table.compute(bars).items()
    }


def version_of(table: Computation, name: str) -> int:
    """The version of a column's formula."""
    return table.fingerprints[name].version


def _numbers(values: Values) -> list[float]:
    if values.dtype == object:
        values = np.array([np.nan if word is None else zlib.crc32(word.encode()) % 1009 for word in values])
    rows = np.flatnonzero(np.isfinite(values.astype(np.float64)))
    known = values[rows].astype(np.float64)
    return [len(rows), int(rows.sum()), float(known.sum()), float((known * (rows % 97 + 1)).sum())]


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in sorted(measured().items())]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
