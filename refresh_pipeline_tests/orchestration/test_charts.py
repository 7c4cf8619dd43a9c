import base64
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.charts import BARS, COLUMNS, chart, picture
from refresh_pipeline_tests.analytics.sample_bars import Market, computed_alone, history

SERIES = Series("EUR/USD", Timeframe.H1)
PNG = b"\x89PNG\r\n"


def rows_of(bars):
    candles = history(Market(bars=300))
    times = (np.datetime64("2025-01-01", "us") + np.arange(300) * np.timedelta64(1, "h")).astype(TIME_UNIT)
    whole = {"open_time": times, **candles, **computed_alone(ENHANCED_CANDLES, candles)}
    return {name: whole[name][:bars][-BARS:] for name in COLUMNS}


def pixels(image, color):
    """How many points of a picture have a colour."""
    points = (imread(BytesIO(image))[:, :, :3] * 255).round().astype(int)
    return int((points == np.array(color)).all(axis=2).sum())


def test_a_chart_is_an_image_within_a_text():
    text = str(chart(SERIES, rows_of(300)).md_str)
    assert text.startswith(f"![EUR/USD H1: the newest {BARS} candles](data:image/png;base64,")
    assert base64.b64decode(text.rpartition(",")[2].removesuffix(")")).startswith(PNG)
    # The event log keeps it: small enough to be kept for every look at a series.
    assert len(text) < 150_000


def test_zones_the_alligator_and_fractals_are_drawn_in_their_colours():
    rows = rows_of(300)
    drawn = picture(SERIES, rows)
    jaw, green, red, gray, black = (0x1F, 0x5F, 0xD0), (0x20, 0xA0, 0x40), (0xD0, 0x30, 0x30), (0x80,) * 3, (0, 0, 0)
    assert all(pixels(drawn, color) > 100 for color in (jaw, green, red, gray, black))
    flags = [name for name in COLUMNS if name.startswith("fractal")]
    without = picture(SERIES, rows | {name: np.zeros(BARS) for name in flags})
    assert pixels(without, black) < pixels(drawn, black)


@pytest.mark.parametrize("bars", [1, 2, 30])
def test_a_series_of_a_few_bars_is_drawn_too(bars):
    assert picture(SERIES, rows_of(bars)).startswith(PNG)


def test_what_dagster_loads_does_not_load_the_plotting_library():
    code = "import sys, refresh_pipeline.orchestration.assets; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
