"""Every calendar that a market's YAML may name."""

from refresh_pipeline.market.calendar import Calendar, CryptoCalendar, FxCalendar
from refresh_pipeline.market.nse import NseCalendar

CALENDARS: dict[str, Calendar] = {each.name: each for each in (CryptoCalendar(), FxCalendar(), NseCalendar())}
