"""Binance's bulk archives: a month or a day of klines as one zip, believed only with its CHECKSUM.

Contract: binance/binance-public-data at 5c7f319. Which stretch comes from an archive and what it is called is decided
here; how a kline is read, and what is asked of the API for the rest, is `binance`'s part.
"""

import csv
import hashlib
import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial

import httpx
import numpy as np

from refresh_pipeline.market.calendars.base import length_of
from refresh_pipeline.market.calendars.crypto import CryptoCalendar
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.redaction import excerpt
from refresh_pipeline.sources import PermanentError, TransientError
from refresh_pipeline.sources.http_client import Client, by_status

ARCHIVE_URL = "https://data.binance.vision"
# Nothing is documented; ten files a second are more than a line carries.
REQUESTS_PER_MINUTE = 600
FILE_WEIGHT = 1

DAY = np.timedelta64(1, "D").astype("timedelta64[us]")
# A month is published on the first Monday after it, a day on the day after it.
MONTH_IS_OUT_AFTER = 8 * DAY
DAY_IS_OUT_AFTER = DAY
# A file has to save more than one page of klines, and a request ten of them, to be worth its own two requests.
PAGE_ROWS = 1000
FEWEST_ROWS = 10 * PAGE_ROWS
MONTH = 30 * DAY
# A month of minutes has some six megabytes.
LARGEST_FILE = 32 * 1024 * 1024
# An encrypted archive is a RuntimeError, a cell of 200 kB an error of csv.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, csv.Error, IndexError, EOFError),
    *(UnicodeDecodeError, NotImplementedError, RuntimeError),
)
SHA256 = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, slots=True)
class Archive:
    """One file: the klines that open at or after `since` and before `until`."""

    period: str
    label: str
    since: np.datetime64
    until: np.datetime64

    def path(self, symbol: str, interval: str) -> str:
        """Where it lies at the host; a month's klines of a month are called 1mo there."""
        folder = interval.replace("1M", "1mo")
        return f"/data/spot/{self.period}/klines/{symbol}/{folder}/{symbol}-{folder}-{self.label}.zip"


def is_worth_it(timeframe: Timeframe, since: np.datetime64, until: np.datetime64, now: np.datetime64) -> bool:
    """Whether so long a stretch is better read from archives, or is just what one of them holds."""
    archive = archive_at(timeframe, since, until, now)
    if archive is not None and archive.until == until and _saves_pages(timeframe, until - since):
        return True
    return bool((until - since) / length_of(timeframe) > FEWEST_ROWS) and _saves_pages(timeframe, MONTH)


def archive_at(timeframe: Timeframe, since: np.datetime64, until: np.datetime64, now: np.datetime64) -> Archive | None:
    """The archive that begins at `since`, ends by `until` and is out by `now`; a month's before a day's.

    >>> at = lambda text: np.datetime64(text, "us")
    >>> archive_at(Timeframe.m1, at("2024-02-01"), at("2024-06-01"), at("2024-06-01")).label
    '2024-02'
    >>> archive_at(Timeframe.m1, at("2024-02-10"), at("2024-06-01"), at("2024-06-01")).label
    '2024-02-10'
    """
    month = since.astype("datetime64[M]")
    end = (month + 1).astype(TIME_UNIT)
    if month.astype(TIME_UNIT) == since and end <= min(until, now - MONTH_IS_OUT_AFTER):
        return Archive("monthly", str(month), since, end)
    day = since.astype("datetime64[D]")
    end = (day + 1).astype(TIME_UNIT)
    is_day = day.astype(TIME_UNIT) == since and end <= min(until, now - DAY_IS_OUT_AFTER)
    return Archive("daily", str(day), since, end) if is_day and _saves_pages(timeframe, DAY) else None


def next_archive(timeframe: Timeframe, since: np.datetime64, until: np.datetime64, now: np.datetime64) -> np.datetime64:
    """Up to where to ask the API, which has the rest: where the first archive after `since` begins, or `until`."""
    day = (since.astype("datetime64[D]") + 1).astype(TIME_UNIT)
    month = (since.astype("datetime64[M]") + 1).astype(TIME_UNIT)
    begins = [each for each in (day, month) if each < until and archive_at(timeframe, each, until, now)]
    return min(begins, default=until)


def _saves_pages(timeframe: Timeframe, stretch: np.timedelta64) -> bool:
    return bool(stretch / length_of(timeframe) > PAGE_ROWS)


def month_of(moment: np.datetime64) -> np.datetime64:
    """Where the month begins that an instant lies in."""
    return CryptoCalendar().floor(Timeframe.MN1, np.array([moment], dtype=TIME_UNIT))[0]


async def checksum_of(client: Client, path: str) -> str | None:
    """What the host says of an archive's content; None where it has no such archive.

    Raises:
        SourceError: the host does not say.
    """
    return await client.get(f"{path}.CHECKSUM", {}, FILE_WEIGHT, _read_checksum)


async def rows_of(client: Client, path: str, checksum: str) -> list[list[str]]:
    """The klines of an archive whose content is what the host says it is.

    Raises:
        SourceError: it does not come, is not what its checksum says, or cannot be read.
    """
    return await client.get(path, {}, FILE_WEIGHT, partial(_read_rows, checksum))


def _read_checksum(response: httpx.Response) -> str | None:
    if response.status_code == 404:
        return None
    if error := by_status(response):
        raise error
    found = SHA256.search(response.text)
    if found is None:
        raise PermanentError(f"expected a SHA-256, received {excerpt(response.text)}; is archive_url right?")
    return found[0]


def _read_rows(checksum: str, response: httpx.Response) -> list[list[str]]:
    if error := by_status(response):
        raise error
    received = hashlib.sha256(response.content).hexdigest()
    if received != checksum:
        raise TransientError(
            f"the archive is not what its CHECKSUM says (wanted {checksum}, received {received}): it broke off, or "
            "was issued again meanwhile"
        )
    try:
        rows = [row for row in csv.reader(io.StringIO(_unpacked(response.content))) if row]
    except UNREADABLE as error:
        raise TransientError(f"the archive cannot be read ({excerpt(str(error))}); it may be issued again") from None
    # Spot archives have no header; those of futures do.
    return rows[1:] if rows and not rows[0][0].isdecimal() else rows


def _unpacked(content: bytes) -> str:
    """The text of the archive's first file.

    Raises:
        PermanentError: it is longer than any month of klines.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        file = next(iter(archive.infolist()), None)
        if file is None:
            raise zipfile.BadZipFile("there is no file in it")
        if file.file_size > LARGEST_FILE:
            raise PermanentError(f"expected a month of klines, received a file of {file.file_size:,} bytes")
        # The reader gives no more than the size that the archive states.
        return archive.read(file).decode("utf-8-sig")
