"""How fast enhanced candles are computed: one long series, many short ones, the predecessor, and a bare loop in C.

Run as `python -m refresh_pipeline_tests.benchmarks.bench_enhanced`. The predecessor, jgtpy, is fetched from the package
index into build/jgtpy once; without it, or without a C compiler, those lines say so.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline_tests.analytics.histories import History, Market, history, rows_of, stacked

LONG, SERIES, EACH = 1_000_000, 487, 500
PREDECESSOR_BARS = (1_000, 10_000)
REPEATS = 3
LINES, FLAGS = 15, 43
JGTPY = Path(__file__).resolve().parents[2] / "build" / "jgtpy"
# With its dependencies it pins others than ours, and brings 300 MB that these columns have no use for.
PACKAGES = (
    "jgtpy==0.6.32",
    "jgtapy",
    "jgtutils",
    "jgtcore",
    "jgtfxcon",
    "tlid",
    "tomli",
    "dropbox",
    "scipy",
    "pandas<3",
)
PREDECESSOR = """
import contextlib, io, json, sys, time, warnings
import numpy as np, pandas as pd
warnings.simplefilter("ignore")
with contextlib.redirect_stdout(io.StringIO()):
    import JGTCDS, pds2cds
seconds = {}
for file in sys.argv[1:]:
    bars = dict(np.load(file))
    frame = pd.DataFrame(bars, index=pd.date_range("2020-01-01", periods=len(bars["Open"]), freq="h", name="Date"))
    request = pds2cds.build_cds_request(instrument="EUR/USD", timeframe="H1", mouth_water_flag=True)
    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        JGTCDS.createFromDF(frame, quiet=True, rq=request)
        seconds[len(frame)] = time.perf_counter() - began
print(json.dumps(seconds))
"""


def best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few runs."""

    def seconds() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return min(seconds() for _ in range(REPEATS))


def with_volume(market: History) -> History:
    """The same with a volume in every bar, as the predecessor needs it."""
    return {**market, "volume": np.nan_to_num(market["volume"], nan=1.0)}


def predecessor_seconds(market: History) -> dict[int, float]:
    """Seconds that jgtpy takes for the first bars of a market, by how many.

    Raises:
        OSError, subprocess.SubprocessError: it could not be fetched, or did not run.
    """
    if not JGTPY.exists():
        fetch = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(JGTPY), *PACKAGES]
        subprocess.run(fetch, check=True, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{bars}.npz" for bars in PREDECESSOR_BARS]
        for file, bars in zip(files, PREDECESSOR_BARS, strict=True):
            columns: dict[str, Any] = {name.capitalize(): values[:bars] for name, values in market.items()}
            np.savez(file, **columns, Median=(columns["High"] + columns["Low"]) / 2)
        path = os.pathsep.join([str(JGTPY), str(JGTPY / "jgtpy")])
        environment = {**os.environ, "PYTHONPATH": path, "HOME": folder}
        command = [sys.executable, "-c", PREDECESSOR, *files]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder)
    return {int(bars): seconds for bars, seconds in json.loads(done.stdout.splitlines()[-1]).items()}


def bare_loop() -> Callable[[Bars], Any]:
    """The same columns as one compiled loop, for one series.

    Raises:
        OSError, subprocess.SubprocessError: there is no C compiler, or it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/bare_loop.so"
        source = Path(__file__).with_name("bare_loop.c")
        compiler = shutil.which("cc")
        if compiler is None:
            raise OSError("no C compiler called cc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, str(source), "-lm"], check=True)
        enhanced = ctypes.CDLL(library).enhanced

    def compute(bars: Bars) -> Any:
        lines, flags = np.empty((LINES, len(bars))), np.zeros((FLAGS, len(bars)), dtype=np.int8)
        columns = [bars[name].ctypes.data_as(ctypes.c_void_p) for name in ("high", "low", "close", "volume")]
        outputs = [array.ctypes.data_as(ctypes.c_void_p) for array in (lines, flags)]
        enhanced(ctypes.c_long(len(bars)), *columns, *outputs)
        return lines, flags

    return compute


def report(what: str, bars: int, seconds: float) -> None:
    """One line of the report."""
    print(f"{what:<44}{bars:>10,} bars {seconds:>9.3f} s {bars / seconds:>12,.0f} bars/s")


def main() -> None:
    """Print bars per second of each."""
    market = with_volume(history(Market(bars=LONG, volatility=0.001)))
    one = stacked([market])
    many = stacked([rows_of(market, slice(EACH * number, EACH * (number + 1))) for number in range(SERIES)])
    ours = best(lambda: ENHANCED_CANDLES.compute(one))
    report("enhanced candles, one series", LONG, ours)
    report(f"enhanced candles, {SERIES} series x {EACH}", len(many), best(lambda: ENHANCED_CANDLES.compute(many)))
    try:
        for bars, seconds in predecessor_seconds(market).items():
            report("jgtpy, one series", bars, seconds)
            print(f"{'':<44}ours, one series of {LONG:,}: {LONG / ours / (bars / seconds):,.0f} times as many bars/s")
            small = stacked([rows_of(market, slice(0, bars))])
            report("enhanced candles, the same bars", bars, best(lambda small=small: ENHANCED_CANDLES.compute(small)))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"jgtpy: not measured: {error}")
    try:
        loop = bare_loop()
        report("bare loop in C, all but 6 columns", LONG, in_c := best(lambda: loop(one)))
        print(f"{'':<44}ours takes {ours / in_c:.1f} times as long")
    except (OSError, subprocess.SubprocessError) as error:
        print(f"bare loop in C: not measured: {error}")


if __name__ == "__main__":
    main()
