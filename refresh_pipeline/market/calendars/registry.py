"""Every calendar that a market's YAML may name: crypto, fx, nse, and the code of an exchange."""

from functools import lru_cache

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.calendars.crypto import CryptoCalendar
from refresh_pipeline.market.calendars.exchange import (
    ALIASES,
    CODES,
    EXTENDED,
    EXTENDED_HOURS,
    REGULAR_HOURS,
    ExchangeCalendar,
)
from refresh_pipeline.market.calendars.fx import FxCalendar
from refresh_pipeline.market.calendars.nse import NseCalendar
from refresh_pipeline.market.suggestions import did_you_mean

# Those of our own; exchanges have theirs in a file each.
CALENDARS: dict[str, Calendar] = {each.name: each for each in (CryptoCalendar(), FxCalendar(), NseCalendar())}


def calendar_named(name: str, hours: str = REGULAR_HOURS) -> Calendar:
    """The calendar of a name or of an exchange's code. The same arguments give the same object.

    >>> calendar_named("nasdaq") is calendar_named("XNYS"), calendar_named("XNYS", "extended").name
    (True, 'XNYS extended')

    Raises:
        ValueError: there is no such calendar, or it has no such hours; the message says which there are.
    """
    if name in CALENDARS and hours == REGULAR_HOURS:
        return CALENDARS[name]
    code = ALIASES.get(name.upper(), name.upper())
    if name not in CALENDARS and code not in CODES:
        known = [*CALENDARS, *CODES, *ALIASES]
        hint = did_you_mean(name.upper(), [*CODES, *ALIASES])
        raise ValueError(f"allowed: {', '.join(known[:3])}, or an exchange's code such as XNYS{hint}")
    if hours != REGULAR_HOURS and code not in EXTENDED:
        raise ValueError(
            f"{name} has no {EXTENDED_HOURS} hours; allowed: {REGULAR_HOURS}; {', '.join(EXTENDED)} has them"
        )
    return _of_exchange(code, hours)


@lru_cache(maxsize=64)
def _of_exchange(code: str, hours: str) -> Calendar:
    return ExchangeCalendar(code, hours)
