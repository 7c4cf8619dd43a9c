"""Enhanced candles and indicators of a pandas DataFrame, for people who use neither Dagster nor a warehouse.

pandas is imported here alone, and nothing that a run loads imports this module: it costs a second, and it is installed
by the extra `frames`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from refresh_pipeline.analytics import availability
from refresh_pipeline.analytics.bars import Bars, Column, Computation, Values
from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.analytics.indicators import IndicatorSpec
from refresh_pipeline.analytics.indicators import indicators as indicators_table
from refresh_pipeline.market.calendars.registry import calendar_named
from refresh_pipeline.market.candles import CANDLE_COLUMNS, PRICE_COLUMNS, TIME_UNIT

# Whole numbers that may be missing.
WHOLE = {"tinyint": "Int8", "smallint": "Int16", "integer": "Int32"}


def enhanced_candles(frame: pd.DataFrame) -> pd.DataFrame:
    """Every enhanced column of one series, beside its candles: one row out per row in, null where not defined.

    The frame's index is the open time (a naive one is UTC), rising; its columns are open, high, low, close and, where
    known, volume, in any letter case. Flags come as Int8, texts as text, the rest as float64. Fractals and
    peaks look ahead: `known_at` says when each of them could be known.

    >>> import pandas as pd
    >>> days = pd.date_range("2024-01-01", periods=40, freq="D")
    >>> close = pd.Series(range(100, 140), index=days, dtype="float64")
    >>> frame = pd.DataFrame({"Open": close - 1, "High": close + 2, "Low": close - 2, "Close": close, "Volume": 10.0})
    >>> enhanced = enhanced_candles(frame)
    >>> enhanced[["close", "median", "ao", "lips", "zone", "fractal_up_2"]].tail(2)
                close  median    ao        lips zone  fractal_up_2
    2024-02-08  138.0   138.0  14.5  131.001238  red             0
    2024-02-09  139.0   139.0  14.5  132.000990  red             0

    Raises:
        ValueError: a column is missing or no number, or open times are missing, repeat or run backwards.
    """
    return _computed(frame, ENHANCED_CANDLES)


def indicators(
    frame: pd.DataFrame,
    compute: Sequence[IndicatorSpec] | None = None,
    *,
    calendar: str = "crypto",
    asset_class: str | None = None,
) -> pd.DataFrame:
    """Every indicator of one series, beside its candles, or those wished for; the frame is as for `enhanced_candles`.

    `compute` names groups, indicators, columns, or an indicator with parameters, as a market's YAML does; `calendar`
    whose days are trading sessions, which VWAP, pivots and opening ranges are of. `asset_class` is the instrument's
    `class` in a market's YAML: with the calendar fx, a metal and an index have trading hours of their own.

    >>> import pandas as pd
    >>> days = pd.date_range("2024-01-01", periods=12, freq="D")
    >>> close = pd.Series(range(12), index=days, dtype="float64") + 1
    >>> frame = pd.DataFrame({"open": close, "high": close, "low": close, "close": close})
    >>> indicators(frame, ["sma_10", {"ema": [3]}])[["sma_10", "ema_3"]].tail(2)
                sma_10  ema_3
    2024-01-11     6.5   10.0
    2024-01-12     7.5   11.0

    Raises:
        ValueError: as for `enhanced_candles`; there is no such indicator; there is no such calendar, or class of it.
    """
    try:
        days = calendar_named(calendar)
    except ValueError as error:
        raise ValueError(f"found calendar {calendar!r}; {error}") from error
    if asset_class is not None and asset_class not in days.classes:
        allowed = ", ".join(days.classes) or f"none with the calendar {calendar}"
        raise ValueError(f"found asset_class {asset_class!r}, allowed: {allowed}")
    return _computed(frame, indicators_table(compute, days), asset_class)


def known_at(frame: pd.DataFrame) -> pd.DataFrame:
    """For each flag that looks ahead, as `<flag>_known_at`, the open time of the bar at whose close it was known.

    NaT where that bar has not closed yet. What a strategy may use at the close of bar t is known at t or before:

    >>> import pandas as pd
    >>> days = pd.date_range("2024-01-01", periods=5, freq="D")
    >>> high = pd.Series([1.0, 2.0, 9.0, 2.0, 1.0], index=days)
    >>> frame = pd.DataFrame({"open": high, "high": high, "low": high, "close": high})
    >>> both = enhanced_candles(frame).join(known_at(frame))
    >>> fractals = both[both["fractal_up_2"] == 1]
    >>> fractals["fractal_up_2_known_at"]
    2024-01-03   2024-01-05
    Freq: D, Name: fractal_up_2_known_at, dtype: datetime64[us]
    >>> len(fractals[fractals["fractal_up_2_known_at"] <= "2024-01-04"])
    0

    Raises:
        ValueError: as for `enhanced_candles`.
    """
    times = availability.known_at(ENHANCED_CANDLES, _bars(frame))
    result = pd.DataFrame(dict(times), index=frame.index)
    zone = getattr(frame.index, "tz", None)
    if zone is None:
        return result
    zoned = {name: column.dt.tz_localize("UTC").dt.tz_convert(zone) for name, column in result.items()}
    return pd.DataFrame(zoned, index=frame.index)


def _computed(frame: pd.DataFrame, computation: Computation, asset_class: str | None = None) -> pd.DataFrame:
    bars = _bars(frame)
    if asset_class is not None:
        bars = replace(bars, classes=np.array([asset_class], dtype=object))
    results = computation.compute(bars)
    columns: dict[str, object] = dict(bars.columns)
    columns |= {column.name: _typed(column, results) for column in computation.columns}
    return pd.DataFrame(columns, index=frame.index)


def _typed(column: Column, results: Mapping[str, Values]) -> object:
    values = results[column.name]
    kind = WHOLE.get(column.sql_type)
    return values if kind is None else pd.array(values, dtype=kind)


def _bars(frame: pd.DataFrame) -> Bars:
    named = {str(name).lower(): name for name in frame.columns}
    missing = [name for name in PRICE_COLUMNS if name not in named]
    if missing:
        raise ValueError(
            f"wanted columns {', '.join(CANDLE_COLUMNS)} (volume may be missing), found {', '.join(named) or 'none'}: "
            f"add {', '.join(missing)}"
        )
    columns = {name: _numbers(frame, named[name]) for name in CANDLE_COLUMNS if name in named}
    columns.setdefault("volume", np.full(len(frame), np.nan))
    return Bars(_open_times(frame), columns, np.array([0, len(frame)]))


def _numbers(frame: pd.DataFrame, name: object) -> np.ndarray:
    column = frame[name]
    if column.ndim != 1 or not np.issubdtype(column.to_numpy().dtype, np.number):
        raise ValueError(
            f"wanted one column of numbers called {name!r}, found {column.ndim} dimensions: {column.dtype}"
        )
    return column.to_numpy(dtype=np.float64)


def _open_times(frame: pd.DataFrame) -> np.ndarray:
    if not isinstance(frame.index, pd.DatetimeIndex):
        raise ValueError(f"wanted open times as a DatetimeIndex, found {type(frame.index).__name__}: set_index first")
    index = frame.index if frame.index.tz is None else frame.index.tz_convert("UTC").tz_localize(None)
    times = index.to_numpy().astype(TIME_UNIT)
    wrong = np.flatnonzero(~(times[1:] > times[:-1])) + 1
    if len(wrong) or np.isnat(times).any():
        where = times[wrong[0]] if len(wrong) else "a missing one"
        raise ValueError(f"wanted open times that rise strictly, found {where} out of order: sort, and keep each once")
    return times
