"""The key `calendar` of a market's YAML: a calendar's name, and the days that differ from its rules."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator, model_validator

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.calendars.exchange import REGULAR_HOURS
from refresh_pipeline.market.calendars.overlay import NO_OVERLAY, Hours, Overlay
from refresh_pipeline.market.calendars.registry import calendar_named

CLOCK = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)")
A_DAY = 24 * 60


def parse_day(value: object) -> date:
    """A date of a YAML.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError as error:
        raise ValueError("allowed: a date, for instance 2027-01-26") from error


def parse_clock(value: object) -> int:
    """The minutes after midnight of a time of day; YAML reads 13:00 without quotes as the number 780.

    >>> parse_clock("13:15"), parse_clock(780)
    (795, 780)

    Raises:
        ValueError: it is no time of day.
    """
    if isinstance(value, time):
        return value.hour * 60 + value.minute
    match = CLOCK.fullmatch(str(value).strip())
    minutes = int(match[1]) * 60 + int(match[2]) if match else value
    if not isinstance(minutes, int) or not 0 < minutes <= A_DAY:
        raise ValueError("allowed: a time of day, for instance '13:00'")
    return minutes


def parse_hours(value: object) -> tuple[Hours, ...]:
    """The sessions of one day.

    >>> parse_hours("09:15-10:00 11:30-12:30")
    ((555, 600), (690, 750))

    Raises:
        ValueError: they are none.
    """
    parts = str(value).split() if not isinstance(value, Sequence) or isinstance(value, str) else [*map(str, value)]
    edges = [part.split("-") for part in parts]
    if not edges or any(len(pair) != 2 for pair in edges):
        raise ValueError("allowed: sessions as '18:00-19:00', several in order with a space between them")
    return tuple((_opening(first), parse_clock(last)) for first, last in edges)


def _opening(text: str) -> int:
    return 0 if text.strip() in {"00:00", "0:00"} else parse_clock(text)


Day = Annotated[date, BeforeValidator(parse_day)]
Clock = Annotated[int, BeforeValidator(parse_clock)]
Sessions = Annotated[tuple[Hours, ...], BeforeValidator(parse_hours)]


class CalendarSpec(BaseModel):
    """A calendar and the days that a market adds to it, by the trading day's date on the calendar's wall clock."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    # Before the opening and after the close too, where the exchange has such hours.
    hours: Literal["regular", "extended"] = REGULAR_HOURS
    # Days without a session.
    closed: tuple[Day, ...] = ()
    # Days with these sessions in place of the regular ones.
    sessions: Mapping[Day, Sessions] = {}
    # Days on which the regular session ends earlier.
    early_closes: Mapping[Day, Clock] = {}
    # The last day of which all sessions are known. Past it no candle is expected.
    known_until: Day | None = None

    @field_validator("name")
    @classmethod
    def _calendar_exists(cls, name: str) -> str:
        calendar_named(name)
        return name

    @field_validator("closed", mode="before")
    @classmethod
    def _is_a_list(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise ValueError("allowed: a list of dates, for instance [2027-01-26]")
        return value

    @model_validator(mode="after")
    def _hours_exist(self) -> "CalendarSpec":
        calendar_named(self.name, self.hours)
        return self

    @model_validator(mode="after")
    def _each_day_is_said_once(self) -> "CalendarSpec":
        seen: set[date] = set()
        for day in (*self.closed, *self.sessions, *self.early_closes):
            if day in seen:
                raise ValueError(f"{day} is named more than once; allowed: each day once")
            seen.add(day)
        return self

    @model_validator(mode="after")
    def _sessions_are_in_order(self) -> "CalendarSpec":
        begins = int(self._plain.day_ends.astype("timedelta64[m]").astype(int)) % A_DAY
        for day, hours in self.sessions.items():
            minutes = [
                (first - begins) % A_DAY if number % 2 == 0 else (first - begins) % A_DAY or A_DAY
                for number, first in enumerate(edge for pair in hours for edge in pair)
            ]
            if any(earlier >= later for earlier, later in pairwise(minutes)):
                raise ValueError(f"sessions of {day}: allowed: sessions in order that do not touch, each ending later")
        return self

    @property
    def overlay(self) -> Overlay:
        """The days that differ from the calendar's rules."""
        return Overlay(
            tuple(sorted(self.closed)),
            tuple(sorted(self.sessions.items())),
            tuple(sorted(self.early_closes.items())),
            self.known_until,
        )

    @property
    def calendar(self) -> Calendar:
        """The calendar with its days. The same specification gives the same object."""
        return self._plain if self.overlay == NO_OVERLAY else _with_overlay(self._plain, self.overlay)

    @property
    def _plain(self) -> Calendar:
        return calendar_named(self.name, self.hours)


@lru_cache(maxsize=64)
def _with_overlay(calendar: Calendar, overlay: Overlay) -> Calendar:
    return calendar.with_overlay(overlay)


def parse_calendar(value: object) -> object:
    """A calendar's name alone stands for a mapping with this name.

    Raises:
        ValueError: there is no such calendar.
    """
    if isinstance(value, str):
        calendar_named(value)
        return {"name": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"allowed: text, or a mapping with {', '.join(CalendarSpec.model_fields)}")
    return value
