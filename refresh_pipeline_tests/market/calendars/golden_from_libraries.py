"""The golden files in `golden/calendars/`, made from two libraries and from a broker's candles; never from ours.

`python -m refresh_pipeline_tests.market.calendars.golden_from_libraries CANDLES` writes them, with pandas 2 as in
`exchanges_from_library`; CANDLES is a Parquet file of OANDA's hours of EUR/USD. Where ours differs on purpose stands in
`differences.txt` beside them, by hand. Comparing is `test_golden_calendars`' part.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

FOLDER = Path(__file__).parents[2] / "golden" / "calendars"
YEARS = (2012, 2020, 2024, 2025, 2026)
# Years in which OANDA's candles have few holes, with the rules of before and after 2016.
CANDLE_YEARS = (2011, 2013, 2014, 2017)
# Calendars that pandas_market_calendars has by itself; the others are those of exchange_calendars.
MARKET_CALENDARS = {
    "XNYS": "NYSE", "XLON": "LSE", "XSWX": "SIX", "XSHG": "SSE", "XOSL": "OSE", "CMES": "CME Globex Equity",
    "nse": "NSE", "index": "CME Globex Equity", "metal": "CMEGlobex_Gold",
}  # fmt: skip
RENAMED = {"crypto": "24/7"}
ZONES = {"index": "America/New_York", "metal": "America/New_York", "nse": "Asia/Kolkata"}
# The hours of futures were others before.
SINCE = {"CMES": 2020, "index": 2020, "metal": 2020}
LEFT_OUT = ("24/5", "24/7", "us_futures")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EDGES = ("market_open", "open", "break_start", "break_end", "close", "market_close")
Day = tuple[tuple[int, int], ...]


def of_market_calendars(name: str) -> tuple[str, str, dict[date, Day]]:
    """Origin, zone and days of a calendar of pandas_market_calendars."""
    import pandas_market_calendars  # noqa: PLC0415

    calendar = pandas_market_calendars.get_calendar(MARKET_CALENDARS[name])
    zone = ZONES.get(name, str(calendar.tz))
    origin = f"pandas_market_calendars {version('pandas_market_calendars')} (MIT), calendar {MARKET_CALENDARS[name]}"
    days: dict[date, Day] = {}
    for year in (year for year in YEARS if year >= SINCE.get(name, 0)):
        days |= dict(_days(calendar.schedule(f"{year}-01-01", f"{year}-12-31"), zone))
    return origin, zone, days


def of_exchange_calendars(name: str) -> tuple[str, str, dict[date, Day]]:
    """Origin, zone and days of a calendar of exchange_calendars."""
    import exchange_calendars  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    code = RENAMED.get(name, name)
    kind = exchange_calendars.calendar_utils._default_calendar_factories[code]
    first, last = pd.Timestamp(f"{YEARS[0]}-01-01"), pd.Timestamp(f"{YEARS[-1]}-12-31")
    first, last = max(first, kind.bound_min() or first), min(last, kind.bound_max() or last)
    calendar = kind(start=first, end=last)
    origin = f"exchange_calendars {version('exchange_calendars')} (Apache-2.0), calendar {code}"
    days = dict(_days(calendar.schedule, calendar.tz.key))
    whole = [year for year in YEARS if f"{year}-01-01" >= str(first)[:10]]
    return origin, calendar.tz.key, {day: hours for day, hours in days.items() if day.year in whole}


def _days(schedule: Any, zone: str) -> Iterator[tuple[date, Day]]:
    import pandas as pd  # noqa: PLC0415

    for day, row in schedule.iterrows():
        moments = [row[name] for name in EDGES if name in row and not pd.isna(row[name])]
        edges = [int((each.tz_convert(zone).tz_localize(None) - day).total_seconds() // 60) for each in moments]
        # A break that begins after an early close is none.
        pairs = [(opens, min(closes, edges[-1])) for opens, closes in zip(edges[::2], edges[1::2], strict=True)]
        yield date(day.year, day.month, day.day), tuple((opens, closes) for opens, closes in pairs if opens < closes)


def of_candles(path: str) -> tuple[str, str, dict[date, Day]]:
    """Origin, zone and days of currencies: the hours that a broker had candles of."""
    import duckdb  # noqa: PLC0415

    with duckdb.connect() as connection:
        rows = connection.execute(f"select epoch(time::timestamptz)::bigint from '{path}' order by 1").fetchall()
    zone, days = ZoneInfo("America/New_York"), dict[date, list[tuple[int, int]]]()
    for (seconds,) in rows:
        opens = datetime.fromtimestamp(seconds, zone).replace(tzinfo=None)
        # A trading day ends at 17:00.
        day = (opens + timedelta(hours=7)).date()
        if day.year in CANDLE_YEARS:
            minute = int((opens - datetime.combine(day, time())).total_seconds() // 60)
            days.setdefault(day, []).append((minute, minute + 60))
    origin = "OANDA's candles of EUR/USD, H1, as QuantConnect Lean publishes them (Apache-2.0)"
    return origin, zone.key, {day: _merged(hours) for day, hours in days.items()}


def _merged(hours: list[tuple[int, int]]) -> Day:
    merged: list[tuple[int, int]] = []
    for opens, closes in hours:
        if merged and merged[-1][1] == opens:
            merged[-1] = merged[-1][0], closes
        else:
            merged.append((opens, closes))
    return tuple(merged)


def text_of(name: str, origin: str, zone: str, days: Mapping[date, Day]) -> str:
    """A golden file: for each year the hours that each weekday usually has, closed days, and days with other hours."""
    lines = [f"# Trading sessions of {name}, on the clock of the zone; < is the day before.", f"# Origin: {origin}."]
    lines.append(f"zone {zone}")
    for year in sorted({day.year for day in days}):
        every = [date(year, 1, 1) + timedelta(days=number) for number in range(365)]
        every += [date(year, 12, 31)] if every[-1] < date(year, 12, 31) else []
        usual = {
            weekday: Counter(days.get(day, ()) for day in every if day.weekday() == weekday).most_common(1)[0][0]
            for weekday in range(7)
        }
        for hours in dict.fromkeys(usual.values()):
            if hours:
                names = " ".join(WEEKDAYS[weekday] for weekday, own in usual.items() if own == hours)
                lines.append(f"{year} usual {_text(hours)}: {names}")
        others: dict[Day, list[str]] = {}
        for day in every:
            if (hours := days.get(day, ())) != usual[day.weekday()]:
                others.setdefault(hours, []).append(f"{day:%m-%d}")
        lines += [f"{year} {_text(hours) or 'closed'}: {' '.join(dates)}" for hours, dates in others.items()]
    return "\n".join(lines) + "\n"


def _text(hours: Day) -> str:
    return " ".join(f"{_clock(opens)}-{_clock(closes)}" for opens, closes in hours)


def _clock(minute: int) -> str:
    return f"{'<' if minute < 0 else ''}{minute % 1440 // 60 + (24 if minute == 1440 else 0):02}:{minute % 60:02}"


def main() -> None:
    """Write every golden file."""
    import exchange_calendars  # noqa: PLC0415

    warnings.simplefilter("ignore")
    FOLDER.mkdir(exist_ok=True)
    codes = [code for code in exchange_calendars.get_calendar_names(include_aliases=False) if code not in LEFT_OUT]
    for name in dict.fromkeys([*codes, *MARKET_CALENDARS, *RENAMED]):
        found = of_market_calendars(name) if name in MARKET_CALENDARS else of_exchange_calendars(name)
        (FOLDER / f"{name.lower()}.txt").write_text(text_of(name, *found), encoding="utf-8")
    for path in sys.argv[1:]:
        (FOLDER / "fx.txt").write_text(text_of("fx", *of_candles(path)), encoding="utf-8")


if __name__ == "__main__":
    main()
