"""Measures how many bars before a row each column, and each function of TA-Lib with a memory, really needs.

Run as `python -m refresh_pipeline_tests.benchmarks.measure_warm_up`. The declared numbers are in analytics/; this shows
what they leave to spare, on markets of several kinds.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.hilbert import cycle
from refresh_pipeline.analytics.talib_functions import FUNCTIONS, bare, lookback
from refresh_pipeline.market.candles import Floats
from refresh_pipeline_tests.analytics.sample_bars import History, Market, differing, history, rows_of, stacked

BARS = 6000
SEEDS = 6
BEGINNINGS = range(200, 3000, 97)
MARKETS: Mapping[str, dict[str, Any]] = {
    "calm": {"volatility": 0.001},
    "lively": {"volatility": 0.01},
    "wild": {"volatility": 0.03},
    "coarse ticks": {"volatility": 0.001, "tick": 0.05},
    "dear": {"volatility": 0.0005, "price": 60000.0, "tick": 0.01},
    "halts of 300": {"volatility": 0.01, "tick": 0.01, "halted": 300},
}
# Near zero a share of the value is below what TA-Lib's own rounding leaves: there a share of the largest value counts.
RELATIVE, OF_LARGEST = 1e-9, 1e-10


def measured(table: Computation, market: History) -> dict[str, int]:
    """The number of bars after which a history that begins late never differs again from the whole, by column."""
    whole = table.compute(stacked([market]))
    late = stacked([rows_of(market, slice(beginning, None)) for beginning in BEGINNINGS])
    computed = table.compute(late)
    rows = np.concatenate([np.arange(beginning, BARS) for beginning in BEGINNINGS])
    found = {name: late.position[differing(computed[name], whole[name][rows], RELATIVE)] for name in computed}
    return {name: int(position.max()) + 1 if len(position) else 0 for name, position in found.items()}


def with_memory() -> Iterator[str]:
    """The functions whose stretches begin so many bars early."""
    return (name for name, function in FUNCTIONS.items() if function.warm_up)


def outputs(name: str, market: History) -> list[Floats]:
    """What a function gives for a whole market, as floats; whole numbers before there is a value become NaN."""
    function = FUNCTIONS[name]
    if name in ("HT_DCPHASE", "HT_SINE", "HT_TRENDMODE"):
        return list(cycle(market["close"].copy(), 0))
    call: Callable[..., Any] = bare(name)
    result = call(*(market[each].copy() for each in function.takes), *function.parameters.values())
    floats = [each.astype(np.float64) for each in (result if isinstance(result, tuple) else (result,))]
    for each in floats:
        each[: lookback(name, function.parameters)] = np.nan
    return floats


def needed_by(name: str, market: History) -> int:
    """Bars after which a function that begins late agrees with one that began early, for ever."""
    whole, worst = outputs(name, market), 0
    for beginning in BEGINNINGS:
        late = outputs(name, rows_of(market, slice(beginning, None)))
        for one, other in zip(late, whole, strict=True):
            worst = max(worst, *_last_difference(one, other[beginning:]))
    return worst


def _last_difference(late: Floats, whole: Floats) -> list[int]:
    scale = float(np.nanmax(np.abs(whole), initial=0))
    off = np.abs(late - whole) > RELATIVE * np.abs(whole) + OF_LARGEST * scale
    off |= np.isnan(late) != np.isnan(whole)
    return [0, *(np.flatnonzero(off)[-1:] + 1).tolist()]


def traded(kind: Mapping[str, Any], seed: int) -> History:
    """A market of a kind, with a volume in every bar."""
    market = history(Market(bars=BARS, seed=seed, **kind))
    return {**market, "volume": np.nan_to_num(market["volume"], nan=1.0)}


def main() -> None:
    """Print declared and measured warm-ups."""
    print(f"{'column':<16}{'declared':>10}" + "".join(f"{kind:>14}" for kind in MARKETS))
    by_kind = [[measured(ENHANCED_CANDLES, traded(kind, seed)) for seed in range(SEEDS)] for kind in MARKETS.values()]
    for column in ENHANCED_CANDLES.columns:
        worst = [max(one[column.name] for one in runs) for runs in by_kind]
        print(f"{column.name:<16}{column.warm_up:>10}" + "".join(f"{bars:>14}" for bars in worst))
    for name in with_memory():
        worst = [max(needed_by(name, traded(kind, seed)) for seed in range(SEEDS)) for kind in MARKETS.values()]
        print(f"{name:<16}{FUNCTIONS[name].warm_up:>10}" + "".join(f"{bars:>14}" for bars in worst))


if __name__ == "__main__":
    main()
