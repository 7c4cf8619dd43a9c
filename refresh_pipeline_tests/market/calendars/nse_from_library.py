"""The holidays and special sessions of `market/calendars/nse_sessions.py` as pandas_market_calendars has them.

`python -m refresh_pipeline_tests.market.calendars.nse_from_library` prints them, to be pasted; a test holds the two
against each other. The library itself takes a second to import, knows no session on a weekend, and past its last
curated year takes holidays for sessions without a word, so that nothing of it runs in the pipeline.
"""

import warnings
from typing import Any

FIRST_YEAR, LAST_YEAR = 2000, 2026
REGULAR = ("09:55-15:30", "09:00-15:30", "09:15-15:30")


def library_calendar() -> Any:
    """XNSE."""
    with warnings.catch_warnings():
        # It warns of pandas' ways at import.
        warnings.simplefilter("ignore")
        import pandas_market_calendars  # noqa: PLC0415

        return pandas_market_calendars.get_calendar("XNSE")


def library_sessions(first: str, last: str) -> dict[str, str]:
    """Every session by its day, its hours in India's time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule = library_calendar().schedule(first, last, tz="Asia/Kolkata")
    opens, closes = (schedule[name].dt.strftime("%H:%M") for name in ("market_open", "market_close"))
    days = schedule.index.strftime("%Y-%m-%d")
    return {day: f"{a}-{b}" for day, a, b in zip(days, opens, closes, strict=True)}


def main() -> None:
    """Print both tables."""
    import pandas as pd  # noqa: PLC0415

    sessions = library_sessions(f"{FIRST_YEAR}-01-01", f"{LAST_YEAR}-12-31")
    weekdays = pd.bdate_range(f"{FIRST_YEAR}-01-01", f"{LAST_YEAR}-12-31").strftime("%Y-%m-%d")
    for year in range(FIRST_YEAR, LAST_YEAR + 1):
        holidays = [day[5:] for day in weekdays if day.startswith(str(year)) and day not in sessions]
        print(f'    {year}: "{" ".join(holidays)}",')
    for day, hours in sessions.items():
        if hours not in REGULAR:
            print(f'    "{day}": "{hours}",')


if __name__ == "__main__":
    main()
