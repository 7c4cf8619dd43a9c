"""Computations alone: one long series beside bare loops, and shorter ones beside the libraries that people come from.

jgtpy, the predecessor of enhanced candles, and pandas-ta-classic are fetched from the package index into build/ once;
without one of them its line is left out, and a line says why.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refresh_pipeline.analytics.bars import Computation
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline_tests.analytics.sample_bars import INDICATORS, History, Market, history, rows_of, stacked
from refresh_pipeline_tests.benchmarks import bare
from refresh_pipeline_tests.benchmarks.measuring import SEED, Comparison, Findings, Size, seconds, side_by_side

BUILD = Path(__file__).resolve().parents[2] / "build"
# Of the long series three rounds say enough: it takes seconds.
ROUNDS = 3
JGTPY_PROGRAM = """
import contextlib, io, json, sys, time, warnings
import numpy as np, pandas as pd
warnings.simplefilter("ignore")
with contextlib.redirect_stdout(io.StringIO()):
    import JGTCDS, pds2cds
seconds = []
for file in sys.argv[1:]:
    bars = {name.capitalize(): values for name, values in np.load(file).items()}
    bars["Median"] = (bars["High"] + bars["Low"]) / 2
    frame = pd.DataFrame(bars, index=pd.date_range("2020-01-01", periods=len(bars["Open"]), freq="h", name="Date"))
    request = pds2cds.build_cds_request(instrument="EUR/USD", timeframe="H1", mouth_water_flag=True)
    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        JGTCDS.createFromDF(frame, quiet=True, rq=request)
        seconds.append([time.perf_counter() - began, 0])
print(json.dumps(seconds))
"""
PANDAS_TA_PROGRAM = """
import contextlib, io, json, sys, time, warnings
import numpy as np, pandas as pd
warnings.simplefilter("ignore")
import pandas_ta_classic as ta
found = []
for file in sys.argv[1:]:
    bars = dict(np.load(file))
    frame = pd.DataFrame(bars, index=pd.date_range("2020-01-01", periods=len(bars["close"]), freq="h"))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        frame.ta.cores = 0
        began = time.perf_counter()
        frame.ta.strategy(ta.AllStrategy)
        found.append([time.perf_counter() - began, len(frame.columns) - 5])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Library:
    """Somebody else's, in a folder of its own; the program prints seconds and columns for each file of bars."""

    name: str
    packages: Sequence[str]
    program: str
    # Below the folder, what is imported without its package.
    paths: Sequence[str] = ()

    def seconds(self, market: History, counts: Sequence[int]) -> list[tuple[float, int]]:
        """Seconds and columns for the first bars of a market, so many at a time.

        Raises:
            OSError, subprocess.SubprocessError: it could not be fetched, or did not run.
        """
        folder = BUILD / self.name
        if not folder.exists():
            fetch = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *self.packages]
            subprocess.run(fetch, check=True, capture_output=True, text=True)
        with tempfile.TemporaryDirectory() as home:
            files = [f"{home}/{count}.npz" for count in counts]
            for file, count in zip(files, counts, strict=True):
                columns: dict[str, Any] = {name: values[:count] for name, values in market.items()}
                np.savez(file, **columns)
            path = os.pathsep.join(map(str, (folder, *(folder / each for each in self.paths))))
            environment = {**os.environ, "PYTHONPATH": path, "HOME": home}
            command = [sys.executable, "-c", self.program, *files]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=home)
        return [(taken, columns) for taken, columns in json.loads(done.stdout.splitlines()[-1])]


# With its dependencies it pins others than ours, and brings 300 MB that these columns have no use for.
JGTPY = Library(
    "jgtpy",
    ["jgtpy==0.6.32", "jgtapy", "jgtutils", "jgtcore", "jgtfxcon", "tlid", "tomli", "dropbox", "scipy", "pandas<3"],
    JGTPY_PROGRAM,
    paths=["jgtpy"],
)
PANDAS_TA = Library("pandas-ta-classic", ["pandas-ta-classic==0.8.32"], PANDAS_TA_PROGRAM)


def measure_enhanced(size: Size, folder: Path) -> Findings:
    """Enhanced candles."""
    loop, note = bare.enhanced()
    compared = _long(ENHANCED_CANDLES, loop, size, note)
    return {f"enhanced candles alone: {len(ENHANCED_CANDLES.columns)} columns": [compared, *_short(JGTPY, size)]}


def measure_indicators(size: Size, folder: Path) -> Findings:
    """Indicators."""
    note = f"bare: {bare.FUNCTION_COUNT} functions of TA-Lib; ours begins each anew every block"
    compared = _long(INDICATORS, bare.indicators, size, note)
    return {f"indicators alone: {len(INDICATORS.columns)} columns": [compared, *_short(PANDAS_TA, size)]}


def _long(table: Computation, loop: Callable[..., object], size: Size, note: str) -> Comparison:
    bars = stacked([traded(size.long)])
    rounds = min(size.rounds, ROUNDS)
    return side_by_side(
        f"one series of {size.long:,} bars", lambda: table.compute(bars), lambda: loop(bars), rounds, note
    )


def _short(library: Library, size: Size) -> list[Comparison]:
    """Ours beside another library, which stands where the floor does elsewhere: below 1 ours is the faster."""
    if not size.short:
        return []
    market = traded(max(size.short))
    table = ENHANCED_CANDLES if library is JGTPY else INDICATORS
    try:
        theirs = library.seconds(market, size.short)
    except (OSError, subprocess.SubprocessError) as error:
        return [Comparison(f"beside {library.name}", note=f"not measured: {error}")]
    return [
        _beside(library, table, rows_of(market, slice(0, count)), *found)
        for count, found in zip(size.short, theirs, strict=True)
    ]


def _beside(library: Library, table: Computation, market: History, taken: float, columns: int) -> Comparison:
    bars = stacked([market])
    ours = seconds(lambda: table.compute(bars))
    values = taken / max(columns, 1) / ours * (len(table.columns) if columns else 1)
    note = f"bare: {library.name}; ours gives {values:,.0f} times as many {'values' if columns else 'bars'} a second"
    return Comparison(f"one series of {len(bars):,} bars", [ours], [taken], note)


def traded(bars: int) -> History:
    """A market with a volume in every bar, as other libraries need it."""
    market = history(Market(bars=bars, volatility=0.001, seed=SEED))
    return {**market, "volume": np.nan_to_num(market["volume"], nan=1.0)}
