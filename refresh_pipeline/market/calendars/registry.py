"""Every calendar that a market's YAML may name."""

from refresh_pipeline.market.calendars.base import Calendar
from refresh_pipeline.market.calendars.crypto import CryptoCalendar
from refresh_pipeline.market.calendars.fx import FxCalendar
from refresh_pipeline.market.calendars.nse import NseCalendar

CALENDARS: dict[str, Calendar] = {each.name: each for each in (CryptoCalendar(), FxCalendar(), NseCalendar())}
