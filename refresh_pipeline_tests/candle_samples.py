"""Candles of our own making with the faults of published ones: outages, newest first, no volume, wrong units, splits.

Each sample stands for a published series, under its file's name, and has its sessions, columns and faults. Prices are
walks from a fixed seed. Sessions come from pandas' time zones and the rules written here, never from the package's
calendars: a test may hold a calendar against them. Where real candles lie belongs to `reference_data`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

Frame = Mapping[str, Any]
OUTAGE = ("2018-04-05 02:10", "2018-04-05 09:22")
# In time order, the row at which each begins.
UNIT_CHANGES, SPLIT, SPIKE = (4, 13), 9, 11
# Days whose high is below the open, as their origin published them.
CONTRADICTORY_DAYS = ("2015-03-05", "2015-03-30")


def write_samples(folder: Path) -> None:
    """Writes all samples into a folder, as Parquet files."""
    with duckdb.connect() as connection:
        for name, sample in samples().items():
            connection.register("sample", pd.DataFrame(dict(sample)))
            connection.execute(f"copy sample to '{folder / name}.parquet' (format parquet)")


def samples() -> dict[str, Frame]:
    """Every sample's columns by name, `time` in UTC first; rows in the order of the file."""
    return {
        **{f"coinbase_{name}": frame for name, frame in coins().items()},
        "binance_SOLUSDT_1m": walk(every("1min", "2024-08-01", "2024-08-01 23:59"), 1_700_000, 10_000, 0.0008, seed=1),
        "binance_BTCUSDT_1h_2024w01": with_counts(walk(every("1h", "2024-01-01", "2024-01-07 23:00"), 4_300_000, 100)),
        "nse_NIFTY50_1m": walk(nse("2019-01-01", 4, ["09:07", "15:30", "15:31"]), 1_090_000, 100, 0.0002, volume=0),
        "nse_YESBANK_1m": walk(nse("2019-07-09", 3, ["15:30", "15:39", "15:40"]), 9_400, 100, volume=40_000),
        "oanda_EURUSD_1h": quoted(walk(euro_hours(), 130_000, 100_000, 0.0008, seed=2), spread=0.0001),
        "oanda_XAUUSD_1m_201405": quoted(walk(gold_minutes(), 1_290_000, 1000, 0.0001, seed=3), spread=0.25),
        "yahoo_SPY_1d": shares_of_an_index(),
        **faulty_and_fixed(),
    }


def every(step: str, since: str, until: str) -> pd.DatetimeIndex:
    """Instants from the first to the last, both included."""
    return pd.date_range(since, until, freq=step, tz="UTC")


def walk(
    times: pd.DatetimeIndex, ticks: int, per_unit: int, move: float = 0.001, *, volume: int = 5000, seed: int = 0
) -> Frame:
    """A walk on ticks that stands still for 12 bars in 400; now and then it opens away from the last close."""
    random, bars = np.random.default_rng(seed), len(times)
    moving = (np.arange(bars) + 200) % 400 >= 12
    calm = 0.4 + np.abs(np.sin(np.arange(bars) / 90))
    close = np.rint(ticks * np.exp(np.cumsum(random.standard_normal(bars) * move * calm * moving)))
    jump = np.rint(close * move * random.standard_normal(bars) * (random.random(bars) < 0.1) * moving)
    opened = np.append(close[:1], close[:-1]) + jump
    reach = np.rint(close * move * calm * np.abs(random.standard_normal((2, bars))) * moving)
    prices = {"open": opened, "high": np.maximum(opened, close) + reach[0]}
    prices |= {"low": np.minimum(opened, close) - reach[1], "close": close}
    volumes = random.integers(0, volume + 1, bars) * moving
    return {"time": times, **{name: values / per_unit for name, values in prices.items()}, "volume": volumes * 1.0}


def rows(frame: Frame, kept: Any) -> Frame:
    """Chosen rows of all columns."""
    return {name: values[kept] for name, values in frame.items()}


def with_counts(frame: Frame) -> Frame:
    """With columns that nobody asked for."""
    return {**frame, "count": np.arange(len(frame["close"])), "_source": np.full(len(frame["close"]), "sample")}


def quoted(frame: Frame, spread: float) -> Frame:
    """With a bid below and an ask above each price."""
    sides = {"bid": -spread / 2, "ask": spread / 2}
    prices = ("open", "high", "low", "close")
    return {
        **frame,
        **{f"{side}_{name}": np.round(frame[name] + by, 5) for side, by in sides.items() for name in prices},
    }


# ---- crypto


def coins() -> dict[str, Frame]:
    """Minutes of three coins with one outage of 7 hours, and hours of one of them from another recording."""
    frames = {}
    for seed, (name, ticks, days) in enumerate([("BTCUSD", 680_000, 3), ("ETHUSD", 38_000, 2), ("LTCUSD", 11_800, 3)]):
        times = every("1min", "2018-04-04", f"2018-04-0{3 + days} 23:59")
        running = (times < pd.Timestamp(OUTAGE[0], tz="UTC")) | (times > pd.Timestamp(OUTAGE[1], tz="UTC"))
        frames[f"{name}_1m_201804"] = rows(walk(times, ticks, 100, 0.0006, seed=seed), running)
    return frames | {"BTCUSD_1h": newest_first(hours_of(frames["BTCUSD_1m_201804"]))}


def hours_of(minutes: Frame) -> Frame:
    """The hours of these minutes, each tenth price a cent away, then 300 hours that end a year later."""
    frame = pd.DataFrame(dict(minutes)).set_index("time").resample("1h")
    made = frame.agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}).dropna()
    made.loc[made.index[::10], "close"] += 0.01
    made["high"] = made[["high", "close"]].max(axis=1)
    later = walk(every("1h", "2019-10-04 22:00", "2019-10-17 09:00"), 810_000, 100, volume=0)
    before = {"time": made.index, **{name: np.asarray(made[name]) for name in made}}
    return {
        "time": before["time"].append(later["time"]),
        **{name: np.append(before[name], later[name]) for name in before if name != "time"},
    }


def newest_first(frame: Frame) -> Frame:
    """The last row first."""
    return rows(frame, slice(None, None, -1))


# ---- sessions, by rules of thumb


def nse(first: str, days: int, strays: list[str]) -> pd.DatetimeIndex:
    """Minutes from 09:15 to 15:30 in India, and single prints outside on each day."""
    sessions = [day.date() for day in pd.bdate_range(first, periods=days)]
    local = [time for day in sessions for time in pd.date_range(f"{day} 09:15", f"{day} 15:29", freq="1min")]
    outside = [pd.Timestamp(f"{day} {stray}") for day in sessions for stray in strays]
    return pd.DatetimeIndex(sorted([*local, *outside])).tz_localize("Asia/Kolkata").tz_convert("UTC")


def euro_hours() -> pd.DatetimeIndex:
    """Hours of 2007 to 2018 from Sunday to Friday 17:00 New York, without holidays, and with a hole of a week."""
    times = every("1h", "2007-01-01 22:00", "2018-12-31 21:00")
    local = times.tz_convert("America/New_York").tz_localize(None)
    day, hour = (local + pd.Timedelta(hours=7)).normalize(), local.hour
    dates = pd.Index(day.strftime("%m-%d"))
    observed = (day.day_of_week == 0) & dates.isin(["12-26", "01-02"]) & (day.year >= 2016)
    # In 2007 a few hours of Christmas traded.
    closed = (dates.isin(["12-25", "01-01"]) & ~((day.year == 2007) & (hour < 5))) | observed
    early = dates.isin(["12-24", "12-31"]) & (day.year >= 2012) & (day.year <= 2015) & (hour >= 14) & (hour < 17)
    yesterday = pd.Index((day - pd.Timedelta(days=1)).strftime("%m-%d"))
    late = yesterday.isin(["12-25", "01-01"]) & (day.year >= 2017) & hour.isin([17, 18])
    late |= day.isin(pd.to_datetime(["2016-12-27", "2017-01-03"])) & (hour == 17)
    hole = (times >= "2016-12-09 12:00") & (times < "2016-12-16 12:00")
    return times[(day.day_of_week < 5) & ~(closed | early | late | hole)]


def gold_minutes() -> pd.DatetimeIndex:
    """Half a month of 2014: Sunday 18:00 to Friday 17:15 New York, with a break from 17:15 to 18:00."""
    times = every("1min", "2014-05-01", "2014-05-15 23:59")
    local = times.tz_convert("America/New_York").tz_localize(None)
    weekday, minute = local.day_of_week, local.hour * 60 + local.minute
    resting = (minute >= 17 * 60 + 15) & (minute < 18 * 60)
    weekend = (weekday == 5) | ((weekday == 4) & (minute >= 17 * 60)) | ((weekday == 6) & (minute < 18 * 60))
    return times[~(resting | weekend)]


def shares_of_an_index() -> Frame:
    """Ten years of days, about as many as an exchange is open, two of which contradict themselves."""
    weekdays = pd.bdate_range("2007-12-31", "2017-12-29", tz="UTC")
    holidays = np.linspace(20, len(weekdays) - 20, len(weekdays) - 2519).astype(int)
    days = weekdays.delete(holidays)
    frame = walk(days, 14_000, 100, 0.01, volume=10**8, seed=4)
    high, low = frame["high"].copy(), frame["low"].copy()
    for day in CONTRADICTORY_DAYS:
        row = days.get_loc(pd.Timestamp(day, tz="UTC"))
        high[row] = max(frame["open"][row], frame["close"][row]) - 0.05
        low[row] = min(low[row], high[row] - 0.5)
    return {
        **frame,
        "high": high,
        "low": low,
        "volume": frame["volume"].astype(np.int64),
        "adj close": frame["close"] * 0.8,
    }


# ---- faults and their repaired twins


def faulty_and_fixed() -> dict[str, Frame]:
    """Short series with a wrong unit, a split or a single wrong price; and the same without, under `_fixed`."""
    made: dict[str, tuple[Frame, Callable[[Frame], Frame]]] = {
        "4063_T_1d_bad_stock_split": (newest_first(days_of(22, 4100)), scaled(slice(13, None), 5)),
        "AET_L_1d_100x_error": (at_rest(23, 14.55), scaled([*range(UNIT_CHANGES[0]), *range(13, 23)], 0.01)),
        "ALPHA_PA_1d_bad_stock_split": (days_of(29, 2), scaled([SPIKE], 0.0001)),
        "ASAI_L_1h_bad_unit": (days_of(20, 65), wrong_close(SPIKE, 0.01)),
        "MOB_ST_1d_bad_stock_split": (days_of(16, 23), scaled([SPLIT], 0.1)),
        "SSW_JO_1d_100x_error": (contradictory(days_of(29, 35)), scaled(slice(22), 100)),
    }
    files: dict[str, Frame] = {}
    for name, (right, spoilt) in made.items():
        files |= {f"yf_{name}": spoilt(right), f"yf_{name}_fixed": right}
    return files


def days_of(bars: int, price: int) -> Frame:
    """A share's days, of which the first opens on a Monday."""
    return walk(pd.bdate_range("2023-05-01 22:00", periods=bars, tz="UTC"), price * 1000, 1000, 0.02, seed=bars)


def at_rest(bars: int, price: float) -> Frame:
    """A share that nobody trades, but on one day."""
    frame = days_of(bars, 1)
    return {
        name: values if name == "time" else np.full(bars, price if name != "volume" else 0.0)
        for name, values in frame.items()
    } | {"volume": np.where(np.arange(bars) == SPIKE, 532_500.0, 0.0)}


def contradictory(frame: Frame) -> Frame:
    """Four days whose open is above the high."""
    opened = frame["open"].copy()
    opened[[2, 6, 15, 18]] = frame["high"][[2, 6, 15, 18]] * 1.004
    return {**frame, "open": opened}


def scaled(wrong: Any, factor: float) -> Callable[[Frame], Frame]:
    """Multiplies all prices of some rows."""

    def spoilt(frame: Frame) -> Frame:
        changed = {name: frame[name].copy() for name in ("open", "high", "low", "close")}
        for values in changed.values():
            values[wrong] *= factor
        return {**frame, **changed}

    return spoilt


def wrong_close(row: int, factor: float) -> Callable[[Frame], Frame]:
    """Multiplies one close, and the low with it."""

    def spoilt(frame: Frame) -> Frame:
        close, low = frame["close"].copy(), frame["low"].copy()
        low[row] = close[row] = close[row] * factor
        return {**frame, "close": close, "low": low}

    return spoilt
