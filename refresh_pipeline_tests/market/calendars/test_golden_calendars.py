"""Every calendar against a golden file of its sessions: openings, closes, breaks, half days and holidays.

The files and their origins are `golden_from_libraries`' part. Where ours differs on purpose, `differences.txt` says how
and why, and the origin's hours stay in the file.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.calendars.exchange import CODES
from refresh_pipeline.market.calendars.registry import CALENDARS, calendar_named
from refresh_pipeline.market.calendars.session_table import local_to_utc
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.timeframe import Timeframe

FOLDER = Path(__file__).parents[2] / "golden" / "calendars"
DIFFERENCES = FOLDER / "differences.txt"
FILES = sorted(path.stem for path in FOLDER.glob("*.txt") if path != DIFFERENCES)
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MINUTE = np.timedelta64(1, "m")
Edges = NDArray[np.datetime64]


def calendar_of(name: str) -> Calendar:
    classes = CALENDARS["fx"].classes
    return classes[name] if name in classes else calendar_named(name if name in CALENDARS else name.upper())


def hours_of(text: str) -> list[tuple[int, int]]:
    """Sessions in minutes after midnight."""

    def minute(clock: str) -> int:
        hour, minutes = clock.lstrip("<").split(":")
        return int(hour) * 60 + int(minutes) - (1440 if clock.startswith("<") else 0)

    parts = [] if text == "closed" else [part.split("-") for part in text.split()]
    return [(minute(opens), minute(closes)) for opens, closes in parts]


def differences(name: str) -> Iterator[tuple[date, str]]:
    for line in DIFFERENCES.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name} "):
            words, _, reason = line.partition(": ")
            assert reason
            _, day, hours = words.split(" ", 2)
            yield date.fromisoformat(day), hours


def golden(name: str) -> tuple[str, dict[date, str]]:
    """The zone, and the hours of each day of the file's years."""
    zone, days = "", {}
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        first, _, rest = line.partition(" ")
        if first == "zone":
            zone = rest
        elif first.isdecimal():
            hours, _, which = rest.rpartition(": ")
            january = date(int(first), 1, 1)
            every = [january + timedelta(days=number) for number in range(366)]
            of_year = {day: "closed" for day in every if day.year == january.year}
            days = {**of_year, **days}
            if hours.startswith("usual "):
                names = which.split()
                days |= {day: hours[6:] for day in of_year if WEEKDAYS[day.weekday()] in names}
            else:
                days |= {date.fromisoformat(f"{first}-{each}"): hours for each in which.split()}
    return zone, days


def merged(opens: Edges, closes: Edges) -> list[tuple[np.datetime64, np.datetime64]]:
    """Sessions in order, those that touch as one."""
    order = np.argsort(opens)
    opens, closes = opens[order], closes[order]
    apart = np.append(True, opens[1:] > closes[:-1])[: len(opens)]
    return list(zip(opens[apart].tolist(), closes[np.append(apart[1:], True)[: len(opens)]].tolist(), strict=True))


def wanted(zone: str, days: dict[date, str]) -> tuple[Edges, Edges]:
    rows = [(day, *edges) for day, hours in days.items() for edges in hours_of(hours)]
    midnights = np.array([day for day, *_ in rows], dtype=TIME_UNIT)
    edges = [midnights + np.array([row[at] for row in rows]) * MINUTE for at in (1, 2)]
    opens, closes = (local_to_utc(zone, each.astype(TIME_UNIT)) for each in edges)
    return opens, closes


def found(calendar: Calendar, since: np.datetime64, until: np.datetime64) -> tuple[Edges, Edges]:
    times = calendar.open_times(Timeframe.m1, since, until)
    edges = np.flatnonzero(np.diff(times) > MINUTE)
    return times[[0, *(edges + 1)]], times[[*edges, -1]] + MINUTE


def bounds(calendar: Calendar, day: date) -> np.datetime64:
    """Where the trading day of a date begins, or the rest before it."""
    begins: np.timedelta64 = getattr(calendar, "day_begins", np.timedelta64(0, "us"))
    # Currencies count from the evening before.
    evening = begins - np.timedelta64(1, "D") if begins > np.timedelta64(0, "us") else begins
    return local_to_utc(calendar.zone, (np.array([day], dtype=TIME_UNIT) + evening).astype(TIME_UNIT))[0]


@pytest.mark.parametrize("name", FILES)
def test_the_sessions_are_those_of_the_golden_file(name: str) -> None:
    calendar, (zone, days) = calendar_of(name), golden(name)
    assert calendar.zone == zone
    days |= dict(differences(name))
    for year in sorted({day.year for day in days}):
        # Each trading day is whole within these bounds, also where it begins on the evening before.
        since, until = bounds(calendar, date(year, 1, 3)), bounds(calendar, date(year, 12, 29))
        own = {day: hours for day, hours in days.items() if date(year, 1, 3) <= day <= date(year, 12, 28)}
        if not calendar.knows(until):
            # A table that ends before the file knows of no day after it.
            assert not calendar.knows(since)
            continue
        assert merged(*found(calendar, since, until)) == merged(*wanted(zone, own)), year


def test_every_calendar_has_a_golden_file_with_its_origin() -> None:
    assert {*FILES} == {*(code.lower() for code in CODES), *CALENDARS, *CALENDARS["fx"].classes}
    for name in FILES:
        assert "\n# Origin: " in (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
