"""The tables in `market/calendars/exchanges/`, made from exchange_calendars with the corrections named here.

`python -m refresh_pipeline_tests.market.calendars.exchanges_from_library` writes them; `ruff format` and CODES in
`exchange.py` follow. With pandas 3 the library loses special Saturdays without a word: it is run with pandas 2, in an
environment of its own.
"""

import json
import sys
import warnings
from collections import Counter
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "refresh_pipeline" / "market" / "calendars" / "exchanges"
FIRST = date(2000, 1, 1)
# Holidays by rule are known ahead. Those that follow the moon, or a yearly decree, are known for as long as the library
# lists them; beyond it has too few a year and says nothing.
KNOWN_UNTIL = date(2027, 12, 31)
DECREED_CODES = [
    "AIXK",
    "XBDA",
    "XBEL",
    "XBKK",
    "XBOM",
    "XIST",
    "XKLS",
    "XKRX",
    "XMOS",
    "XPHS",
    "XSAU",
    "XSES",
    "XSHG",
    "XTAI",
]
DECREED = dict.fromkeys(DECREED_CODES, date(2026, 12, 31)) | dict.fromkeys(["XIDX", "XKAR"], date(2025, 12, 31))
# Not of exchanges, or less exact than a calendar of ours.
LEFT_OUT = ("24/5", "24/7", "us_futures")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# Globex rests from 16:00 to 17:00 in Chicago; the library has it open for all 24 hours.
GLOBEX_CLOSE, LIBRARY_CLOSE = 16 * 60, 17 * 60
# Juneteenth, which the library lacks for CMES, and the day of mourning of 2025 on which futures were traded.
JUNETEENTH = ("2022-06-20", "2023-06-19", "2024-06-19", "2025-06-19", "2026-06-19", "2027-06-18")
Day = tuple[tuple[int, int], ...]
# Exchanges whose sessions are another's but for what their module says: with their zone, or a few days of long ago.
SHARED = {"XHAM": "XDUS", "XFRA": "XETR", "XBRU": "XPAR", "XAMS": "XPAR"}
# Weeks on either side whose most frequent hours are the regular ones.
AROUND = 10


def sessions(code: str) -> tuple[str, date, date, dict[date, Day]]:
    """The zone, the first and the last day of a table, and every day's sessions in minutes after local midnight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import exchange_calendars  # noqa: PLC0415
        import pandas as pd  # noqa: PLC0415

        kind = exchange_calendars.calendar_utils._default_calendar_factories[code]
        first, last = FIRST, DECREED.get(code, KNOWN_UNTIL)
        if (bound := kind.bound_min()) is not None:
            first = max(first, bound.date())
        calendar = kind(start=pd.Timestamp(first), end=pd.Timestamp(last))
        days = {}
        for row in calendar.schedule.itertuples():
            day, *edges = row
            minutes = [_minutes(edge, day, calendar.tz) for edge in edges if not pd.isna(edge)]
            days[day.date()] = tuple(zip(minutes[::2], minutes[1::2], strict=True))
        return calendar.tz.key, first, last, corrected(code, days)


def _minutes(edge: Any, day: Any, zone: Any) -> int:
    return int((edge.tz_convert(zone).tz_localize(None) - day).total_seconds() // 60)


def corrected(code: str, days: dict[date, Day]) -> dict[date, Day]:
    """The days with what the library lacks or has otherwise."""
    if code == "CMES":
        days = {day: ((hours[0][0], min(hours[0][1], GLOBEX_CLOSE)),) for day, hours in days.items()}
        days |= {date.fromisoformat(day): ((-420, 720),) for day in JUNETEENTH}
        days[date(2025, 1, 9)] = ((-420, GLOBEX_CLOSE),)
    if code == "XBOM":
        from refresh_pipeline.market.calendars import nse_sessions  # noqa: PLC0415

        for day, text in (nse_sessions.SPECIAL_SESSIONS | nse_sessions.CORRECTIONS).items():
            edges = [[int(clock[:2]) * 60 + int(clock[3:]) for clock in part.split("-")] for part in text.split()]
            # The halt of 2021-02-24 was the other exchange's.
            if day != "2021-02-24":
                days[date.fromisoformat(day)] = tuple((first, last) for first, last in edges)
    return dict(sorted(days.items()))


def table(code: str) -> dict[str, Any]:
    """A calendar as its file has it: regular hours by weekday from a date on, closed days, days with other hours."""
    zone, first, last, known = sessions(code)
    every = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    regular: dict[str, dict[str, str]] = {}
    special: dict[str, str] = {}
    closed: dict[str, list[str]] = {}
    for weekday, name in enumerate(WEEKDAYS):
        dates = [day for day in every if day.weekday() == weekday]
        hours = [known.get(day, ()) for day in dates]
        usual = [_most_frequent(hours[max(0, at - AROUND) : at + AROUND + 1]) for at in range(len(dates))]
        changes = {
            str(day): _text(now) for day, (before, now) in zip(dates[1:], pairwise(usual), strict=True) if now != before
        }
        regular |= {name: {str(dates[0]): _text(usual[0])} | changes} if any(usual) else {}
        for day, real, rule in zip(dates, hours, usual, strict=True):
            if real and real != rule:
                special[str(day)] = _text(real)
            elif real != rule:
                closed.setdefault(str(day.year), []).append(f"{day:%m-%d}")
    return {
        "zone": zone, "first": str(first), "last": str(last), "regular": regular,
        "special": dict(sorted(special.items())),
        "closed": {year: " ".join(sorted(days)) for year, days in sorted(closed.items())},
    }  # fmt: skip


def _most_frequent(hours: list[Day]) -> Day:
    return Counter(hours).most_common(1)[0][0]


def _text(hours: Day) -> str:
    return " ".join(f"{first}..{last}" for first, last in hours)


def main() -> None:
    """Write every table, or those of the codes on the command line."""
    import exchange_calendars  # noqa: PLC0415

    FOLDER.mkdir(exist_ok=True)
    for code in sys.argv[1:] or exchange_calendars.get_calendar_names(include_aliases=False):
        if code not in LEFT_OUT:
            write(code, table(code))


def write(code: str, contents: dict[str, Any]) -> None:
    """Write a table as a module, to be formatted by ruff."""
    other = SHARED.get(code)
    text = module(code, contents) if other is None else shared_module(code, contents, other, table(other))
    (FOLDER / f"{code.lower()}.py").write_text(text, encoding="utf-8")


def module(code: str, contents: dict[str, Any]) -> str:
    """The module of a table of its own."""
    return f'"""The sessions of {code}: see exchange.py."""\n\nTABLE = {json.dumps(contents, indent=4)}\n'


def shared_module(code: str, contents: dict[str, Any], other: str, shared: dict[str, Any]) -> str:
    """The module of a table that is another one's but for some entries.

    Raises:
        ValueError: the other table has entries that this one lacks.
    """
    changes: list[str] = []
    for key, value in contents.items():
        if isinstance(value, dict) and value != shared[key]:
            if not shared[key].keys() <= value.keys():
                raise ValueError(f"{code}: {key}: {other} has more entries")
            own = {name: entry for name, entry in value.items() if shared[key].get(name) != entry}
            entries = ", ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in own.items())
            changes.append(f'{json.dumps(key)}: {{**{other}["{key}"], {entries}}}')
        elif value != shared[key]:
            changes.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return (
        f'"""The sessions of {code}, those of {other} where nothing else is said: see exchange.py."""\n\n'
        f"from refresh_pipeline.market.calendars.exchanges.{other.lower()} import TABLE as {other}\n\n"
        f"TABLE = {{**{', '.join([other, *changes])}}}\n"
    )


if __name__ == "__main__":
    main()
