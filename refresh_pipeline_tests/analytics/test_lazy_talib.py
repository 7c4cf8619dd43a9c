"""In processes of their own: what has been imported is a property of the whole process."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

ANALYTICS = "import refresh_pipeline.analytics.enhanced_candles, refresh_pipeline.analytics.indicators, sys\n"
FRAMES = """
import pandas, talib, talib.abstract, talib.stream
from refresh_pipeline.analytics.talib_functions import bare
frame = pandas.DataFrame({"close": [1.0, 2.0, 3.0, 4.0]}, index=list("abcd"))
mean = talib.SMA(frame["close"], timeperiod=2)
assert isinstance(mean, pandas.Series) and list(mean.index) == list("abcd") and mean["d"] == 3.5, mean
mean = talib.abstract.SMA(frame, timeperiod=2)
assert isinstance(mean, pandas.Series) and mean["d"] == 3.5, mean
bands = talib.abstract.BBANDS(frame, timeperiod=2)
assert isinstance(bands, pandas.DataFrame) and len(bands) == 4, bands
assert talib.stream.SMA(frame["close"], timeperiod=2).value == 3.5
assert list(talib.SMA(frame["close"].to_numpy(), timeperiod=2)[1:]) == [1.5, 2.5, 3.5]
assert list(bare("SMA")(frame["close"].to_numpy(), 2)[1:]) == [1.5, 2.5, 3.5]
"""
needs_pandas = pytest.mark.skipif(find_spec("pandas") is None, reason="pandas is not installed")


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["pandas", "dagster", "duckdb", "httpx"])
def test_analytics_alone_loads_no(package):
    run(f"{ANALYTICS}assert {package!r} not in {{name.partition('.')[0] for name in sys.modules}}")


@needs_pandas
def test_talib_still_takes_frames_where_pandas_comes_after_analytics():
    run(ANALYTICS + FRAMES)


@needs_pandas
def test_talib_still_takes_frames_where_pandas_comes_first():
    run("import pandas as first\n" + ANALYTICS + "assert sys.modules['pandas'] is first" + FRAMES)


@needs_pandas
def test_talib_still_takes_frames_where_it_was_imported_first():
    run("import talib\n" + ANALYTICS + FRAMES)
