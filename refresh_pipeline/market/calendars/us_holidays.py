"""US holidays of futures exchanges, which metals and index CFDs follow: closed days and early closes, by rule."""

from datetime import date, timedelta

MONDAY, THURSDAY = 0, 3
# Martin Luther King's birthday has been a holiday of the exchanges since 1998, Juneteenth since 2022.
KING_SINCE, JUNETEENTH_SINCE = 1998, 2022


def good_friday(year: int) -> date:
    """Two days before Easter Sunday of the Gregorian calendar, by the anonymous algorithm (Meeus, Jones, Butcher).

    >>> good_friday(2026)
    datetime.date(2026, 4, 3)
    """
    a, (b, c) = year % 19, divmod(year, 100)
    h = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    k = (32 + 2 * (b % 4) + 2 * (c // 4) - h - c % 4) % 7
    month, day = divmod(h + k - 7 * ((a + 11 * h + 22 * k) // 451) + 114, 31)
    return date(year, month, day + 1) - timedelta(days=2)


def closed_days(year: int) -> list[date]:
    """Good Friday, and the weekday on which Christmas and New Year are kept: the Monday after a Sunday.

    A Christmas on a Saturday is kept on the Friday before, a New Year on a Saturday is not.
    """
    christmas = observed(date(year, 12, 25))
    new_year = date(year, 1, 1)
    return [good_friday(year), christmas, *([observed(new_year)] if new_year.weekday() != 5 else [])]


def early_closes(year: int) -> list[date]:
    """The holidays on which futures trade until 13:00 New York.

    >>> [f"{day:%m-%d}" for day in early_closes(2026)]
    ['01-19', '02-16', '05-25', '06-19', '07-03', '09-07', '11-26', '11-27', '12-24']
    """
    thanksgiving = _nth(year, 11, THURSDAY, 4)
    days = [
        *([_nth(year, 1, MONDAY, 3)] if year >= KING_SINCE else []),
        _nth(year, 2, MONDAY, 3),
        _nth(year, 6, MONDAY, 1) - timedelta(days=7),
        *([observed(date(year, 6, 19))] if year >= JUNETEENTH_SINCE else []),
        observed(date(year, 7, 4)),
        _nth(year, 9, MONDAY, 1),
        thanksgiving,
        thanksgiving + timedelta(days=1),
        date(year, 12, 24),
    ]
    closed = set(closed_days(year))
    return [day for day in days if day.weekday() < 5 and day not in closed]


def observed(day: date) -> date:
    """The weekday on which a holiday is kept: the Friday before a Saturday, the Monday after a Sunday."""
    return day + timedelta(days={5: -1, 6: 1}.get(day.weekday(), 0))


def _nth(year: int, month: int, weekday: int, number: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))
