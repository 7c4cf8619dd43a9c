"""The calendars of exchanges by their codes, XNYS and the like: tables made from exchange_calendars, one module each.

A module is imported when a market names its code. They are written by `exchanges_from_library` beside the tests; see
docs/decisions/0096.
"""

import importlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.calendars.base import DAY
from refresh_pipeline.market.calendars.overlay import NO_OVERLAY, Hours, Overlay
from refresh_pipeline.market.calendars.session_table import LAST_GRID_DAY, Sessions, TableCalendar, local_to_utc
from refresh_pipeline.market.candles import TIME_UNIT, Times
from refresh_pipeline.market.timeframe import Timeframe

# A module with a table each.
CODES = (
    "AIXK", "ASEX", "BVMF", "CMES", "IEPA", "XAMS", "XASX", "XBDA", "XBEL", "XBKK", "XBOG", "XBOM", "XBRA", "XBRU",
    "XBSE", "XBUD", "XBUE", "XCBF", "XCSE", "XCYS", "XDUB", "XDUS", "XEEE", "XETR", "XEUR", "XFRA", "XHAM", "XHEL",
    "XHKG", "XICE", "XIDX", "XIST", "XJSE", "XKAR", "XKLS", "XKRX", "XLIM", "XLIS", "XLIT", "XLJU", "XLON", "XLUX",
    "XMAD", "XMEX", "XMIL", "XMOS", "XNYS", "XNZE", "XOSL", "XPAR", "XPHS", "XPRA", "XRIS", "XSAU", "XSES", "XSGO",
    "XSHG", "XSTO", "XSTU", "XSWX", "XTAE", "XTAI", "XTAL", "XTKS", "XTSE", "XWAR", "XWBO", "XZAG",
)  # fmt: skip
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
HOUR, A_DAY = 60, 24 * 60
# Codes that stand for another one's table.
ALIASES = {
    "NYSE": "XNYS", "NASDAQ": "XNYS", "XNAS": "XNYS", "BATS": "XNYS", "ARCX": "XNYS", "XASE": "XNYS", "OOTC": "XNYS",
    "TSX": "XTSE", "XTSX": "XTSE", "LSE": "XLON", "FWB": "XFRA", "SIX": "XSWX", "JPX": "XTKS", "ASX": "XASX",
    "HKEX": "XHKG", "OSE": "XOSL", "BSE": "XBOM", "SSE": "XSHG", "TASE": "XTAE", "CME": "CMES", "CBOT": "CMES",
    "COMEX": "CMES", "NYMEX": "CMES", "ICE": "IEPA", "ICEUS": "IEPA", "NYFE": "IEPA", "CFE": "XCBF", "BMF": "BVMF",
    "JKT": "XIDX", "BVB": "XBSE", "LUXSE": "XLUX",
}  # fmt: skip
# Hours before the opening and after the close in which US exchanges trade shares: New York, minutes after midnight.
EXTENDED = {"XNYS": (4 * HOUR, 4 * HOUR)}
REGULAR_HOURS, EXTENDED_HOURS = "regular", "extended"


class ExchangeCalendar(TableCalendar):
    """An exchange's sessions from its table.

    >>> ExchangeCalendar("XNYS").last_closed(Timeframe.H1, np.datetime64("2024-07-03T20:00"))
    np.datetime64('2024-07-03T16:30:00.000000')
    """

    def __init__(self, code: str, hours: str = REGULAR_HOURS, overlay: Overlay = NO_OVERLAY) -> None:
        """The calendar of one exchange.

        Args:
            code: one of CODES.
            hours: "regular", or "extended" where the exchange has such hours.
            overlay: what a market's YAML adds.
        """
        self.code, self.hours = code, hours
        self.name = code if hours == REGULAR_HOURS else f"{code} {hours}"
        module = importlib.import_module(f"refresh_pipeline.market.calendars.exchanges.{code.lower()}")
        self._table: Mapping[str, Any] = module.TABLE
        self.zone = self._table["zone"]
        usual = [pair for regimes in self._regimes().values() for pair in list(regimes.values())[-1]]
        # A trading day that opens on the evening before begins with the full hour of its opening.
        first = min((pair[0] for pair in usual), default=0)
        self._opens, self._closes = first, max((pair[1] for pair in usual), default=A_DAY)
        self.day_begins = np.timedelta64(min(0, first // HOUR * HOUR), "m").astype("timedelta64[us]")
        self.day_ends = self.day_begins + DAY
        self.last_known = local_to_utc(self.zone, np.array([np.datetime64(self._table["last"], "us") + self.day_ends]))[
            0
        ]
        super().__init__(overlay)

    def with_overlay(self, overlay: Overlay) -> "ExchangeCalendar":
        """See Calendar."""
        return type(self)(self.code, self.hours, overlay)

    @property
    def open_share(self) -> float:  # type: ignore[override]
        """See Calendar; of the table's last two years."""
        since = np.datetime64(self._table["last"], "us") - 730 * DAY
        lengths = (self._sessions.stops - self._sessions.starts)[self._within(since, since + 730 * DAY)]
        return float(lengths.sum() / (730 * DAY))

    @property
    def hourly_deadlines(self) -> str:  # type: ignore[override]
        """See Calendar: a quarter past the end of each hour's candle."""
        minute = (self._opens + 15) % HOUR
        first, last = (self._opens + HOUR + 15) // HOUR, (self._closes + 15) // HOUR
        return f"{minute} {first}-{last} * * {self._weekday_field}" if 0 <= first <= last < 24 else ""

    @property
    def daily_deadlines(self) -> str:  # type: ignore[override]
        """See Calendar: the first full hour that is an hour or more after the close."""
        return f"0 {min(self._closes // HOUR + 2, 23)} * * {self._weekday_field}"

    def close_minutes(self, timeframe: Timeframe) -> str:
        """See Calendar: bars are counted from the opening, and the last one may be short."""
        step = min(timeframe.minutes, HOUR)
        sessions = self._recent_sessions()
        opens = {minute for first, _ in sessions for minute in range(first % step, HOUR, step)}
        minutes = opens | {last % HOUR for _, last in sessions}
        return "*" if len(minutes) == HOUR else ",".join(map(str, sorted(minutes)))

    def sessions(self) -> Sessions:
        """See TableCalendar."""
        special = self._special_days()
        named = np.array(sorted(special), dtype="datetime64[D]")
        days, pairs = [np.array([], dtype=TIME_UNIT)], [np.zeros((0, 2), dtype=np.int64)]
        for dates, hours in self._regular_days():
            regular = dates[~np.isin(dates, named)].astype(TIME_UNIT)
            days += [regular] * len(hours)
            pairs += [np.tile(pair, (len(regular), 1)) for pair in hours]
        listed = [(day, pair) for day, hours in special.items() for pair in hours]
        days.append(np.array([day for day, _ in listed], dtype=TIME_UNIT))
        pairs.append(np.array([pair for _, pair in listed], dtype=np.int64).reshape(-1, 2))
        all_days, minutes = np.concatenate(days), np.concatenate(pairs).astype("timedelta64[m]")
        order = np.argsort(all_days + minutes[:, 0])
        local = all_days[order]
        starts, stops = (local_to_utc(self.zone, local + minutes[order, side]) for side in (0, 1))
        return Sessions(local, starts, stops)

    def usual_openings(self, days: Times) -> NDArray[np.timedelta64]:
        """See TableCalendar."""
        return np.full(np.shape(days), np.timedelta64(self._opens, "m")).astype("timedelta64[us]")

    @property
    def regular_sessions(self) -> tuple[Hours, ...]:
        """The sessions of most weekdays by the newest rule, in minutes after midnight of the exchange's zone."""
        newest = [list(regimes.values())[-1] for regimes in self._regimes().values()]
        trading = [hours for hours in newest if hours]
        return max(trading, key=trading.count)

    @property
    def _weekday_field(self) -> str:
        # Cron counts from Sunday.
        numbers = sorted(
            (WEEKDAYS.index(day) + 1) % 7 for day, regimes in self._regimes().items() if list(regimes.values())[-1]
        )
        return ",".join(map(str, numbers)) if numbers != [1, 2, 3, 4, 5] else "1-5"

    def _within(self, since: np.datetime64, until: np.datetime64) -> slice:
        return slice(*np.searchsorted(self._sessions.starts, np.array([since, until], dtype=TIME_UNIT)).tolist())

    def _recent_sessions(self) -> set[Hours]:
        usual = {pair for regimes in self._regimes().values() for pair in list(regimes.values())[-1]}
        newest = str(np.datetime64(self._table["last"]) - 3 * 366)
        return usual | {pair for day, hours in self._special_days().items() if day > newest for pair in hours}

    @lru_cache(maxsize=1)  # noqa: B019 - calendars live as long as the process
    def _regimes(self) -> Mapping[str, Mapping[str, tuple[Hours, ...]]]:
        """The regular hours of each weekday from a date on."""
        return {
            weekday: {since: self._extended(parse_hours(text)) for since, text in regimes.items()}
            for weekday, regimes in self._table["regular"].items()
        }

    def _regular_days(self) -> list[tuple[NDArray[np.datetime64], tuple[Hours, ...]]]:
        """Dates with the hours that they have by rule."""
        days = np.arange(np.datetime64(self._table["first"]), np.datetime64(LAST_GRID_DAY) + 1)
        # 1970-01-01 was a Thursday.
        weekdays = (days.astype(np.int64) + 3) % 7
        found = []
        for weekday, regimes in self._regimes().items():
            dates = days[weekdays == WEEKDAYS.index(weekday)]
            edges = [*np.searchsorted(dates, np.array(list(regimes), dtype="datetime64[D]")).tolist(), len(dates)]
            hours = regimes.values()
            found += [(dates[first:last], each) for first, last, each in zip(edges, edges[1:], hours, strict=False)]
        return found

    @lru_cache(maxsize=1)  # noqa: B019 - calendars live as long as the process
    def _special_days(self) -> dict[str, tuple[Hours, ...]]:
        """The sessions of the days that are not regular; none on holidays."""
        days = {f"{year}-{day}": () for year, listed in self._table["closed"].items() for day in listed.split()}
        days |= {day: self._extended(parse_hours(text)) for day, text in self._table["special"].items()}
        for day, end in self.overlay.early_closes:
            hours = days.get(str(day)) or self._hours_by_rule(str(day))
            days[str(day)] = tuple((first, min(last, end)) for first, last in hours if first < end)
        days |= {str(day): tuple(map(self._as_of_day, hours)) for day, hours in self.overlay.sessions}
        return days | {str(day): () for day in self.overlay.closed}

    def _as_of_day(self, hours: Hours) -> Hours:
        """Sessions of a market's YAML: an opening after the day's usual end is one of the evening before."""
        first, last = hours
        begins = int(self.day_begins // np.timedelta64(1, "m"))
        return (first - A_DAY, last if last <= first else last - A_DAY) if first >= A_DAY + begins else hours

    def _hours_by_rule(self, day: str) -> tuple[Hours, ...]:
        regimes = self._regimes().get(WEEKDAYS[(int(np.datetime64(day).astype(np.int64)) + 3) % 7], {})
        return next((hours for since, hours in reversed([*regimes.items()]) if since <= day), ())

    def _extended(self, hours: tuple[Hours, ...]) -> tuple[Hours, ...]:
        if self.hours == REGULAR_HOURS or not hours:
            return hours
        opening, after = EXTENDED[self.code]
        return ((opening, hours[-1][1] + after),)


def parse_hours(text: str) -> tuple[Hours, ...]:
    """The sessions of a day as a table has them: minutes after midnight, below zero on the evening before.

    >>> parse_hours("-420..960"), parse_hours("540..690 750..930"), parse_hours("")
    (((-420, 960),), ((540, 690), (750, 930)), ())
    """
    return tuple((int(first), int(last)) for first, _, last in (part.partition("..") for part in text.split()))
