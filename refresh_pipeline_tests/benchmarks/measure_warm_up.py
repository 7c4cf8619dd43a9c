"""Measures how many bars before a row each column really needs.

Run as `python -m refresh_pipeline_tests.benchmarks.measure_warm_up`. The declared numbers are in analytics/; this shows
what they leave to spare, on markets of several kinds.
"""

import numpy as np

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.indicators import INDICATORS
from refresh_pipeline_tests.analytics.histories import History, Market, differing, history, rows_of, stacked

BARS = 6000
MARKETS = {
    "calm": {"volatility": 0.001},
    "lively": {"volatility": 0.01},
    "wild": {"volatility": 0.03},
    "coarse ticks": {"volatility": 0.001, "tick": 0.05},
    "dear": {"volatility": 0.0005, "price": 60000.0, "tick": 0.01},
    "halts of 300": {"volatility": 0.01, "tick": 0.01, "halted": 300},
}


def measured(table: Computation, market: History) -> dict[str, int]:
    """The number of bars after which a history that begins late never differs again from the whole, by column."""
    beginnings = range(200, 3000, 97)
    whole = table.compute(stacked([market]))
    late = stacked([rows_of(market, slice(beginning, None)) for beginning in beginnings])
    computed = table.compute(late)
    rows = np.concatenate([np.arange(beginning, BARS) for beginning in beginnings])
    found = {name: late.position[differing(computed[name], whole[name][rows], 1e-9)] for name in computed}
    return {name: int(position.max()) + 1 if len(position) else 0 for name, position in found.items()}


def main() -> None:
    """Print declared and measured warm-ups."""
    print(f"{'column':<16}{'declared':>10}" + "".join(f"{kind:>14}" for kind in MARKETS))
    for table in (ENHANCED_CANDLES, INDICATORS):
        by_kind = [
            [measured(table, history(Market(bars=BARS, seed=seed, **kind))) for seed in range(6)]
            for kind in MARKETS.values()
        ]
        for column in table.columns:
            worst = [max(one[column.name] for one in runs) for runs in by_kind]
            print(f"{column.name:<16}{column.warm_up:>10}" + "".join(f"{bars:>14}" for bars in worst))


if __name__ == "__main__":
    main()
