"""Timeframes and the one table of their names. How long a bar lasts lives here; when it opens is the calendar's."""

import difflib
import re
from enum import StrEnum
from functools import lru_cache

MINUTES_PER_HOUR = 60
MINUTES_PER_DAY = 24 * MINUTES_PER_HOUR


class UnknownTimeframe(ValueError):
    """A name that no timeframe has, or that two of them could claim."""


class Timeframe(StrEnum):
    """How long one candle lasts, from short to long."""

    m1 = "m1"
    m5 = "m5"
    m15 = "m15"
    m30 = "m30"
    H1 = "H1"
    H2 = "H2"
    H3 = "H3"
    H4 = "H4"
    H6 = "H6"
    H8 = "H8"
    D1 = "D1"
    W1 = "W1"
    MN1 = "MN1"

    @property
    def minutes(self) -> int:
        """Nominal length in minutes: the exact one up to a week, 30 days for a month."""
        return NOMINAL_MINUTES[self]

    @property
    def is_intraday(self) -> bool:
        """Whether a bar is shorter than a day."""
        return self.minutes < MINUTES_PER_DAY

    def divides(self, longer: "Timeframe") -> bool:
        """Whether whole bars of this timeframe fill one bar of a longer one.

        >>> Timeframe.H4.divides(Timeframe.D1), Timeframe.H3.divides(Timeframe.H4)
        (True, False)
        >>> Timeframe.W1.divides(Timeframe.MN1)
        False
        """
        if longer is Timeframe.MN1:
            return self.minutes <= MINUTES_PER_DAY
        return self is not longer and longer.minutes % self.minutes == 0

    @classmethod
    def parse(cls, text: str) -> "Timeframe":
        """The timeframe somebody meant, from any of its usual names.

        >>> [Timeframe.parse(name).value for name in ("1m", "1min", "5T", "60", "1h", "4H", "1d", "1w", "1M", "1mo")]
        ['m1', 'm1', 'm5', 'H1', 'H1', 'H4', 'D1', 'W1', 'MN1', 'MN1']

        Raises:
            UnknownTimeframe: the name is not known, or is `M1`, which means a minute to some and a month to others.
        """
        name = re.sub(r"\b[\s_-]+\b|_", "", str(text).strip())
        if name == "M1":
            raise UnknownTimeframe(
                "timeframe 'M1' is ambiguous: write 'm1' (or '1min') for one minute, 'MN1' (or '1mo') for one month"
            )
        timeframe = aliases().get(name) or aliases().get(name.lower())
        if timeframe is None:
            raise UnknownTimeframe(_unknown(str(text).strip()))
        return timeframe

    # Text comparison would put "D1" before "m1"; everything here sorts from short to long.
    def __lt__(self, other: object) -> bool:
        return self.minutes < other.minutes if isinstance(other, Timeframe) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self.minutes <= other.minutes if isinstance(other, Timeframe) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self.minutes > other.minutes if isinstance(other, Timeframe) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self.minutes >= other.minutes if isinstance(other, Timeframe) else NotImplemented


NOMINAL_MINUTES: dict[Timeframe, int] = {
    Timeframe.m1: 1,
    Timeframe.m5: 5,
    Timeframe.m15: 15,
    Timeframe.m30: 30,
    Timeframe.H1: 60,
    Timeframe.H2: 120,
    Timeframe.H3: 180,
    Timeframe.H4: 240,
    Timeframe.H6: 360,
    Timeframe.H8: 480,
    Timeframe.D1: MINUTES_PER_DAY,
    Timeframe.W1: 7 * MINUTES_PER_DAY,
    Timeframe.MN1: 30 * MINUTES_PER_DAY,
}

LONG_NAMES: dict[Timeframe, tuple[str, ...]] = {
    Timeframe.D1: ("D", "1d", "d1", "1day", "day", "daily", "24h", "1440"),
    Timeframe.W1: ("W", "1w", "w1", "1week", "week", "weekly", "7d", "10080"),
    Timeframe.MN1: ("M", "1M", "1MN", "mn1", "mn", "1mo", "mo1", "1mth", "1month", "month", "monthly"),
}


@lru_cache(maxsize=1)
def aliases() -> dict[str, Timeframe]:
    """Every name of a timeframe, the canonical ones included."""
    table: dict[str, Timeframe] = {}
    for timeframe in Timeframe:
        names = LONG_NAMES.get(timeframe) or _intraday_names(timeframe.minutes)
        table |= dict.fromkeys((timeframe.value, *names), timeframe)
    # Lower case is a second chance, never for a bare capital M: "1M" is a month, "1m" a minute.
    return {name.lower(): timeframe for name, timeframe in table.items() if name not in ("M", "1M")} | table


def _intraday_names(minutes: int) -> list[str]:
    names = [f"{minutes}m", f"{minutes}min", f"{minutes}T", f"{minutes}minute", f"{minutes}minutes", f"mi{minutes}"]
    names += [f"m{minutes}", f"{minutes}"]
    names += [f"M{minutes}"] if minutes > 1 else []
    hours, rest = divmod(minutes, MINUTES_PER_HOUR)
    if hours and not rest:
        names += [f"{hours}h", f"{hours}H", f"H{hours}", f"{hours}hr", f"{hours}hour", f"{hours}hours"]
    return names


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, list(aliases()), n=1, cutoff=0.6)
    hint = f"; did you mean {aliases()[nearest[0]].value}?" if nearest else ""
    return f"unknown timeframe {name!r}{hint} (allowed: {', '.join(Timeframe)})"
