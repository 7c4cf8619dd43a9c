"""FXCM's candle archive in miniature: packed files over real HTTP on loopback, numbered as oddly as the real ones.

    with FakeFxcm(now=datetime(2024, 6, 7, 12, tzinfo=UTC)) as archive:
        ...  # put archive.base_url into a market's YAML
        archive.missing.add((2024, 20))
        archive.replace("/H1/EURUSD/2024/21.csv.gz", b"rubbish")

Candles are invented: each is a function of pair and opening time alone. A week's file is there a week after its end, a
year's after the year's.
"""

import gzip
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer

NEW_YORK = ZoneInfo("America/New_York")
HEADER = "DateTime,BidOpen,BidHigh,BidLow,BidClose,AskOpen,AskHigh,AskLow,AskClose"
WEEKLY = re.compile(r"/(m1|H1)/([A-Z]{6})/(\d{4})/(\d{1,2})\.csv\.gz")
YEARLY = re.compile(r"/D1/([A-Z]{6})/(\d{4})\.csv\.gz")
LENGTHS = {"m1": timedelta(minutes=1), "H1": timedelta(hours=1), "D1": timedelta(days=1)}
PAIRS = ("EURUSD", "USDJPY", "GBPUSD", "AUDUSD")
DAY = timedelta(days=1)

THROTTLED = Fault(403, "<html><body>403 Forbidden</body></html>")
BUSY = Fault(503, "<html><body>503 Slow Down</body></html>")
DROPPED = Fault(drops=True)


class FakeFxcm(LoopbackServer):
    """The archive. `asked` lists what it was asked, `fail` plans faults, `missing` holds years and numbers of weeks."""

    def __init__(self, now: datetime, shifts: Mapping[int, int] | None = None) -> None:
        """An archive with four pairs.

        Args:
            now: what time it is there.
            shifts: by year, what is added to ISO's number of a week (that of its Monday) to name its file.
        """
        super().__init__()
        self.now = now
        self.shifts = shifts or {}
        self.missing: set[tuple[int, int]] = set()
        self.lag = timedelta(days=7)
        self._replaced: dict[str, bytes] = {}

    def replace(self, path: str, content: bytes) -> None:
        """Serve these bytes as a file."""
        self._replaced[path] = content

    def lines(self, path: str) -> list[str]:
        """What a file holds, unpacked; nothing where there is none."""
        content = self._content(path)
        return [] if content is None else gzip.decompress(content).decode().splitlines()

    @property
    def paths(self) -> list[str]:
        """What was asked for, in the order it came."""
        return [each.path for each in self.asked]

    async def answer(self, request: web.Request) -> web.Response:
        """A file or 404."""
        content = self._content(request.path)
        if content is None:
            return web.Response(
                status=404, text="<Error><Code>NoSuchKey</Code></Error>", content_type="application/xml"
            )
        return web.Response(body=content, content_type="application/x-gzip")

    def _content(self, path: str) -> bytes | None:
        if path in self._replaced:
            return self._replaced[path]
        if weekly := WEEKLY.fullmatch(path):
            periodicity, pair, year, number = weekly[1], weekly[2], int(weekly[3]), int(weekly[4])
            opens = self._week(periodicity, year, number)
        elif yearly := YEARLY.fullmatch(path):
            periodicity, pair, opens = "D1", yearly[1], self._year(int(yearly[2]))
        else:
            return None
        if pair not in PAIRS or not opens:
            return None
        rows = [_row(pair, at, LENGTHS[periodicity]) for at in opens]
        return gzip.compress("\n".join([HEADER, *rows, ""]).encode(), mtime=0)

    def _week(self, periodicity: str, year: int, number: int) -> list[datetime]:
        if (year, number) in self.missing:
            return []
        try:
            monday = date.fromisocalendar(year, number - self.shifts.get(year, 0), 1)
        except ValueError:
            return []
        start, end = _evening(monday - DAY), _evening(monday + 4 * DAY)
        if end + self.lag > self.now:
            return []
        step = LENGTHS[periodicity]
        opens = [start + step * n for n in range((end - start) // step)]
        # Nothing is quoted in some minutes.
        return [at for at in opens if periodicity == "H1" or at.minute % 29 != 28]

    def _year(self, year: int) -> list[datetime]:
        if year >= self.now.year:
            return []
        days = [date(year, 1, 1) + n * DAY for n in range(366)]
        return [_evening(day) for day in days if day.year == year and day.weekday() in (6, 0, 1, 2, 3)]


def _evening(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 17, tzinfo=NEW_YORK).astimezone(UTC)


def quote(pair: str, at: datetime, length: timedelta) -> list[float]:
    """Bid and ask of a candle, each as open, high, low, close."""
    begins, ends = (_price(pair, moment) for moment in (at, at + length))
    # Now and then a quote is crossed.
    spread = -0.00002 if at.timestamp() % 17 == 0 else 0.00012
    bid = [begins, max(begins, ends) + 0.0004, min(begins, ends) - 0.0004, ends]
    return [round(price, 5) for price in (*bid, *(price + spread for price in bid))]


def _row(pair: str, at: datetime, length: timedelta) -> str:
    return ",".join([f"{at:%m/%d/%Y %H:%M:%S}.000", *(f"{price:g}" for price in quote(pair, at, length))])


def _price(pair: str, at: datetime) -> float:
    minutes = int(at.timestamp() // 60)
    return 1 + PAIRS.index(pair) / 4 + minutes % 9973 / 1e5 + minutes % 37 / 1e5
