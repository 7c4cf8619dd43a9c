import subprocess
import sys

import numpy as np
import pytest

from refresh_pipeline.analytics.dataframes import enhanced_candles, indicators, known_at
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline_tests.analytics.sample_bars import Market, computed_alone, history

pd = pytest.importorskip("pandas")
BARS = history(Market(bars=700))


def frame_of(bars=700, **options):
    index = pd.date_range("2024-01-01", periods=bars, freq="h", **options)
    return pd.DataFrame({name.capitalize(): values[:bars] for name, values in BARS.items()}, index=index)


def test_a_frame_gets_the_same_numbers_as_the_arrays():
    enhanced = enhanced_candles(frame_of())
    for name, values in computed_alone(ENHANCED_CANDLES, BARS).items():
        if values.dtype == object:
            assert enhanced[name].fillna("null").to_list() == [each or "null" for each in values]
        else:
            np.testing.assert_array_equal(enhanced[name].to_numpy(dtype=np.float64, na_value=np.nan), values)


def test_flags_are_small_integers_with_nulls_and_the_input_is_left_alone():
    frame = frame_of(300)
    before = frame.copy()
    enhanced = enhanced_candles(frame)
    assert str(enhanced["zone_signal"].dtype) == "Int8"
    assert int(np.isnan(enhanced["zone_signal"].to_numpy(dtype=np.float64, na_value=np.nan)).sum()) == 37
    pd.testing.assert_frame_equal(frame, before)


def test_zones_of_time_stay_as_they_came():
    known = known_at(frame_of(300, tz="Asia/Kolkata"))
    assert str(known["fractal_up_2_known_at"].dt.tz) == "Asia/Kolkata"
    assert known["fractal_up_2_known_at"].iloc[0] == known.index[2]


@pytest.mark.parametrize("bars", [0, 1, 3])
def test_a_frame_of_a_few_bars_has_every_column(bars):
    assert len(enhanced_candles(frame_of(bars)).columns) == 5 + len(ENHANCED_CANDLES.columns)
    assert len(indicators(frame_of(bars))) == bars


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frame: frame.drop(columns="High"), "add high"),
        (lambda frame: frame.iloc[::-1], "out of order"),
        (lambda frame: pd.concat([frame, frame.iloc[-1:]]), "keep each once"),
        (lambda frame: frame.reset_index(drop=True), "found RangeIndex"),
        (lambda frame: frame.assign(Close="dear"), "column of numbers called 'Close'"),
        (lambda frame: frame.rename(columns={"Open": "Close"}), "add open"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(spoil, message):
    with pytest.raises(ValueError, match=message):
        enhanced_candles(spoil(frame_of(10)))


def test_what_a_run_loads_does_not_load_pandas():
    code = "import sys, refresh_pipeline.warehouse.warehouse; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
