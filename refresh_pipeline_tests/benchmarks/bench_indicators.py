"""How fast indicators are made: a tick of many series from warehouse to warehouse, one long series, another library.

Run as `python -m refresh_pipeline_tests.benchmarks.bench_indicators`. Beside each figure stands a bare loop that calls
every function of TA-Lib on the same arrays and throws the results away. pandas-ta-classic is fetched from the package
index into build/ once; without it that line says so.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from refresh_pipeline.analytics.bars import Bars, Values
from refresh_pipeline.analytics.talib_functions import FUNCTIONS, bare
from refresh_pipeline.market.candles import CANDLE_COLUMNS, Candles
from refresh_pipeline.market.model import Market as MarketYaml
from refresh_pipeline.market.model import parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.tail import TailRefresh
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.analytics.histories import INDICATORS, History, Market, history, stacked

SERIES, STORED, TICKS = 487, 1500, 7
LONG = 1_000_000
OTHER_BARS = (1_000, 10_000)
REPEATS = 3
FIRST = np.datetime64("2026-01-01", "us")
MINUTE = np.timedelta64(60_000_000, "us")
NOW = datetime(2026, 2, 1, tzinfo=UTC)
OTHER = Path(__file__).resolve().parents[2] / "build" / "pandas-ta-classic"
OTHER_PACKAGE = "pandas-ta-classic==0.8.32"
OTHER_PROGRAM = """
import contextlib, io, json, sys, time, warnings
import numpy as np, pandas as pd
warnings.simplefilter("ignore")
import pandas_ta_classic as ta
found = {}
for file in sys.argv[1:]:
    bars = dict(np.load(file))
    frame = pd.DataFrame(bars, index=pd.date_range("2020-01-01", periods=len(bars["close"]), freq="h"))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        frame.ta.cores = 0
        began = time.perf_counter()
        frame.ta.strategy(ta.AllStrategy)
        found[len(frame)] = [time.perf_counter() - began, len(frame.columns) - 5]
print(json.dumps(found))
"""


# ---- a bare loop

_CALLS = [
    (
        bare(name),
        ["close" if each == "periods" else each for each in function.takes],
        list(function.parameters.values()),
    )
    for name, function in FUNCTIONS.items()
]


def bare_loop(bars: Bars) -> None:
    """Every function of TA-Lib on every series, at its default parameters; MAVP over 14 bars."""
    for rows in bars.slices:
        columns = {name: bars[name][rows] for name in CANDLE_COLUMNS}
        periods = np.full(rows.stop - rows.start, 14.0)
        for function, takes, parameters in _CALLS:
            arrays = [columns[name] for name in takes]
            if function.__name__ == "MAVP":
                arrays[1] = periods
            function(*arrays, *parameters)


# ---- a tick


@dataclass
class Tick:
    """Seconds of one refresh of every series, split; and of the bare loop on the arrays that it read."""

    read: float
    compute: float
    write: float
    bare: float
    rows: int

    @property
    def ours(self) -> float:
        """From warehouse to warehouse."""
        return self.read + self.compute + self.write


@dataclass
class Watched:
    """A computation that notes when it began and ended, and on what."""

    compute: Callable[[Bars], Mapping[str, Values]]
    bars: list[Bars] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0

    def __call__(self, bars: Bars) -> Mapping[str, Values]:
        self.began = time.perf_counter()
        computed = self.compute(bars)
        self.ended = time.perf_counter()
        self.bars.append(bars)
        return computed


def ticks(folder: Path, series: int = SERIES, stored: int = STORED, count: int = TICKS) -> list[Tick]:
    """One new candle of each series, several times."""
    names = ", ".join(f"S{number:03d}" for number in range(series))
    yaml = f"{{name: wide, source: {{kind: demo}}, calendar: crypto, instruments: [{names}], timeframes: [m1], "
    market = parse_market(yaml + "history: 2d}", file="wide.yaml")
    warehouse = Warehouse(database=str(folder / "ticks.duckdb"))
    warehouse.prepare(market)
    histories = {each: market_of(stored + count, number) for number, each in enumerate(market.series)}
    put(warehouse, market, histories, slice(0, stored))
    for table in (Table.enhanced_candles, Table.indicators):
        warehouse.refresh_tail(market, table, market.series)
    return [one_tick(warehouse, market, histories, slice(at, at + 1)) for at in range(stored, stored + count)]


def market_of(bars: int, seed: int) -> History:
    """A market with a volume in every bar, as the bare loop needs it."""
    market = history(Market(bars=bars, volatility=0.001, seed=seed))
    return {**market, "volume": np.nan_to_num(market["volume"], nan=1.0)}


def put(warehouse: Warehouse, market: MarketYaml, histories: Mapping[Series, History], rows: slice) -> None:
    """Store some bars of every series."""
    arrivals = {
        series: Candles(FIRST + MINUTE * np.arange(rows.start, rows.stop), {name: own[name][rows] for name in own})
        for series, own in histories.items()
    }
    warehouse.store_candles(market, arrivals, "bench", NOW)


def one_tick(warehouse: Warehouse, market: MarketYaml, histories: Mapping[Series, History], rows: slice) -> Tick:
    """Store it, refresh what comes before, and time the indicators."""
    put(warehouse, market, histories, rows)
    warehouse.refresh_tail(market, Table.enhanced_candles, market.series)
    table = computations(market)[Table.indicators]
    watched = Watched(table.compute)
    began = time.perf_counter()
    stale = warehouse.stale(market, Table.indicators, market.series)
    work = TailRefresh(
        warehouse.get_connection,
        market.name,
        replace(table, compute=watched),
        market.calendar,
        market.two_sided,
        market.indicators.keep,
    )
    work.run(stale)
    ended = time.perf_counter()
    [bars] = watched.bars
    in_bare = seconds(lambda: bare_loop(bars))
    return Tick(watched.began - began, watched.ended - watched.began, ended - watched.ended, in_bare, len(bars))


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few runs."""
    return min(seconds(work) for _ in range(REPEATS))


# ---- another library


def other_library(market: History) -> dict[int, tuple[float, int]]:
    """Seconds and columns of everything that pandas-ta-classic has, for the first bars of a market, by how many.

    Raises:
        OSError, subprocess.SubprocessError: it could not be fetched, or did not run.
    """
    if not OTHER.exists():
        fetch = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(OTHER), OTHER_PACKAGE]
        subprocess.run(fetch, check=True, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{bars}.npz" for bars in OTHER_BARS]
        for file, bars in zip(files, OTHER_BARS, strict=True):
            columns: dict[str, Any] = {name: values[:bars] for name, values in market.items()}
            np.savez(file, **columns)
        environment = {**os.environ, "PYTHONPATH": str(OTHER)}
        command = [sys.executable, "-c", OTHER_PROGRAM, *files]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder)
    found = json.loads(done.stdout.splitlines()[-1])
    return {int(bars): (taken, columns) for bars, (taken, columns) in found.items()}


def report(what: str, bars: int, taken: float, columns: int) -> None:
    """One line of the report."""
    print(f"{what:<44}{bars:>10,} bars {columns:>4} columns {taken:>9.3f} s {bars / taken:>12,.0f} bars/s")


def show_ticks(found: Sequence[Tick]) -> None:
    """The split of a tick and its ratio to the bare loop, medians."""
    split = {
        name: median(getattr(tick, name) for tick in found) for name in ("read", "compute", "write", "ours", "bare")
    }
    ratio = median(tick.ours / tick.bare for tick in found)
    print(f"{len(INDICATORS.columns)} columns, {SERIES} series, a new candle each: ms, medians of {len(found)}")
    print("  " + "  ".join(f"{name} {value * 1000:,.0f}" for name, value in split.items()) + f"  ratio {ratio:.2f}")
    print(f"  {found[0].rows:,} rows read to write {SERIES}; bare: {len(_CALLS)} functions of TA-Lib on those rows")


def main() -> None:
    """Print what each takes."""
    with tempfile.TemporaryDirectory() as folder:
        show_ticks(ticks(Path(folder)))
    market = market_of(LONG, seed=1)
    one = stacked([market])
    in_ours = seconds(lambda: INDICATORS.compute(one))
    in_bare = seconds(lambda: bare_loop(one))
    report("indicators, one series", LONG, in_ours, len(INDICATORS.columns))
    report("bare loop of TA-Lib", LONG, in_bare, len(_CALLS))
    print(f"{'':<44}ours takes {in_ours / in_bare:.1f} times as long")
    try:
        for bars, (taken, columns) in other_library(market).items():
            small = stacked([{name: values[:bars] for name, values in market.items()}])
            report("pandas-ta-classic, everything", bars, taken, columns)
            report(
                "indicators, the same bars",
                bars,
                own := best(lambda small=small: INDICATORS.compute(small)),
                len(INDICATORS.columns),
            )
            print(f"{'':<44}{taken / columns / own * len(INDICATORS.columns):,.0f} times as many values a second")
    except (OSError, subprocess.SubprocessError) as error:
        print(f"pandas-ta-classic: not measured: {error}")


if __name__ == "__main__":
    main()
