"""Binance's bulk archives in miniature: zips with a CHECKSUM beside each, of the candles that a FakeBinance has.

    with FakeBinance(now=NOW) as venue, FakeArchive(venue) as archive:
        ...  # put archive.base_url into a market's YAML as archive_url

Files are built when they are asked for, so a candle that is corrected at the venue is a file that was issued again.
"""

import hashlib
import io
import re
import zipfile
from datetime import UTC, datetime

import numpy as np
from aiohttp import web

from refresh_pipeline_tests.fakes.binance import FakeBinance, _grid
from refresh_pipeline_tests.fakes.http_server import LoopbackServer

PATH = re.compile(r"/data/spot/(daily|monthly)/klines/(\w+)/(\w+)/\2-\3-(\d{4}-\d\d(?:-\d\d)?)\.zip(\.CHECKSUM)?")
MICROSECONDS_SINCE = "2025-01-01"


class FakeArchive(LoopbackServer):
    """The host of archives. `missing` names labels that are not published, `garbled` those whose zip is damaged."""

    def __init__(self, venue: FakeBinance) -> None:
        super().__init__()
        self.venue = venue
        self.missing: set[str] = set()
        self.garbled: set[str] = set()

    @property
    def files(self) -> list[str]:
        """Labels of the zips that were given, in the order they were asked for."""
        found = [PATH.fullmatch(each.path) for each in self.asked if each.status == 200]
        return [match[4] for match in found if match and not match[5]]

    @property
    def looks(self) -> int:
        """How often a checksum was asked for."""
        return sum(each.path.endswith(".CHECKSUM") for each in self.asked)

    async def answer(self, request: web.Request) -> web.Response:
        """A zip, its checksum, or 404 for what is not published."""
        match = PATH.fullmatch(request.path)
        content = self._zip(match[2], match[3], match[4]) if match else None
        if match is None or content is None:
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>", content_type="text/xml")
        if match[5]:
            name = request.path.rpartition("/")[2].removesuffix(".CHECKSUM")
            return web.Response(text=f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        return web.Response(body=content, content_type="application/zip")

    def _zip(self, symbol: str, folder: str, label: str) -> bytes | None:
        first = np.datetime64(label)
        span = [first.astype("datetime64[ms]").astype(int), (first + 1).astype("datetime64[ms]").astype(int)]
        now = (self.venue.now or datetime.now(UTC)).timestamp() * 1000
        if symbol not in self.venue.symbols or label in self.missing or span[1] > now:
            return None
        if span[1] <= self.venue.listed.timestamp() * 1000:
            return None
        interval = folder.replace("1mo", "1M")
        opens = _grid(interval, span[0], span[1] - 1)
        opens = opens[(opens >= span[0]) & (opens >= self.venue.listed.timestamp() * 1000)]
        rows = self.venue._rows(symbol, interval, opens)
        scale = 1000 if str(first) >= MICROSECONDS_SINCE else 1
        lines = [
            ",".join(str(each) for each in (row[0] * scale, *row[1:6], _end(row[6], scale), *row[7:])) for row in rows
        ]
        return _zipped(f"{symbol}-{folder}-{label}.csv", "\n".join(lines) + "\n", garbled=label in self.garbled)


def _end(close_ms: int, scale: int) -> int:
    return close_ms if scale == 1 else (close_ms + 1) * scale - 1


def _zipped(name: str, text: str, *, garbled: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        # The same content is the same file, whenever it is built.
        archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    return content[: len(content) // 2] if garbled else content
