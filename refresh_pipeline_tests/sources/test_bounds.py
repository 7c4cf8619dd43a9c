"""What a hostile or broken venue can cost: an answer's size, its coding, a pause, one odd price, one surprise."""

import asyncio
import gzip
import io
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from aiohttp import web

from refresh_pipeline.market.candles import Candles, instant
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, SourceError, TransientError, http_client
from refresh_pipeline.sources.binance import _read_time, read_klines
from refresh_pipeline.sources.binance_archive import LARGEST_FILE, _read_rows
from refresh_pipeline.sources.fetching import fetch
from refresh_pipeline.sources.http_client import Client, RetryPolicy
from refresh_pipeline.sources.rate_limits import LONGEST_PAUSE, SharedLimit
from refresh_pipeline.sources.rows import number
from refresh_pipeline_tests.fakes.http_server import LoopbackServer

ONCE = RetryPolicy(attempts=1, answer=20.0)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOUR = 1_780_000_000_000 // 3_600_000 * 3_600_000


class Raw(LoopbackServer):
    """Answers with these bytes under these headers, or with a stream of them."""

    def __init__(self, body: Any = b"", headers: dict[str, str] | None = None, status: int = 200) -> None:
        super().__init__()
        self.body, self.headers, self.status = body, headers or {}, status

    async def answer(self, request: web.Request) -> web.Response:
        return web.Response(body=self.body, headers=self.headers, status=self.status)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(1 << 20)


def asked(server: Raw, directory: Path, policy: RetryPolicy = ONCE) -> httpx.Response:
    async def ask() -> httpx.Response:
        limit = SharedLimit(directory, "venue", 1000, 60.0)
        async with Client(server.base_url, limit, policy) as client:
            return await client.get("/x", {}, 1, lambda answer: answer)

    return asyncio.run(ask())


def test_a_packed_answer_is_unpacked(tmp_path: Path) -> None:
    with Raw(gzip.compress(b'{"a": ') + gzip.compress(b"1}"), {"Content-Encoding": "gzip"}) as server:
        assert asked(server, tmp_path).json() == {"a": 1}
        assert server.asked[0].headers["Accept-Encoding"] == "gzip"
    with Raw(b'{"a": 2}') as server:
        assert asked(server, tmp_path).json() == {"a": 2}


BOMB = gzip.compress(bytes(80 << 20), compresslevel=1)


@pytest.mark.parametrize(
    ("body", "coding", "message"),
    [
        (BOMB, "gzip", "received more than 64 MB"),
        (gzip.compress(BOMB), "gzip, gzip", "received content-encoding gzip, gzip"),
        (b"x", "br", "received content-encoding br"),
        (b"x", "deflate", "received content-encoding deflate"),
    ],
)
def test_an_answer_has_one_coding_and_a_largest_size(body: bytes, coding: str, message: str, tmp_path: Path) -> None:
    with (
        Raw(body, {"Content-Encoding": coding}) as server,
        pytest.raises(PermanentError, match=message),
    ):
        asked(server, tmp_path)


def test_an_endless_answer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "LARGEST_ANSWER", 4 << 20)
    with Raw(endless()) as server, pytest.raises(PermanentError, match="received more than 4 MB"):
        asked(server, tmp_path)


def test_a_broken_coding_is_worth_another_attempt(tmp_path: Path) -> None:
    with Raw(b"no gzip at all", {"Content-Encoding": "gzip"}) as server, pytest.raises(TransientError, match="no gzip"):
        asked(server, tmp_path)


# ---- pauses and limits


def test_a_pause_is_an_hour_at_most_and_names_its_file(tmp_path: Path) -> None:
    now = 1_780_000_000.0
    limit = SharedLimit(tmp_path, "venue", 10, 60.0, lambda: now)
    limit.pause(604_800, "HTTP 429")
    assert limit.take(1) == pytest.approx(LONGEST_PAUSE)
    assert limit.remedy == f"to ask at once, delete {tmp_path / 'venue.json'}"
    (tmp_path / "venue.json").unlink()
    assert limit.take(1) == 0.0


def test_a_pause_noted_while_the_clock_was_ahead_is_an_hour_at_most(tmp_path: Path) -> None:
    ahead = SharedLimit(tmp_path, "venue", 10, 60.0, lambda: 1_900_000_000.0)
    ahead.pause(60, "HTTP 429")
    ahead.observe_server_usage(10, 60.0)
    ahead.close()
    assert SharedLimit(tmp_path, "venue", 10, 60.0, lambda: 1_780_000_000.0).take(1) <= LONGEST_PAUSE


@pytest.mark.parametrize(("stated", "usable"), [(1, 6), (0, 6), (-5, 6), (10**30, 600)])
def test_a_stated_limit_stays_near_the_known_one(stated: int, usable: int, tmp_path: Path) -> None:
    limit = SharedLimit(tmp_path, "venue", 600, 60.0, lambda: 1_780_000_000.0)
    limit.learn(stated)
    assert limit.take(usable - usable // 20) == 0.0


# ---- rows


def kline(close: Any = "1", opened: Any = HOUR) -> list[Any]:
    return [opened, "1", "2", "1", close, "10", HOUR + 3_599_999, "0", 1, "0", "0", "0"]


@pytest.mark.parametrize("close", [["1"], [], {}, None, "1_5", "\u0661", "١.٥", "x", True and [["1"]]])
def test_a_price_that_is_no_number_is_that_candle_s_alone(close: Any) -> None:
    for rows in ([kline(close)], [kline(), kline(close, HOUR + 3_600_000)]):
        candles, _ = read_klines(rows)
        assert candles["close"].shape == (len(rows),)
        assert np.isnan(candles["close"][-1])


@pytest.mark.parametrize("opened", [[HOUR], 10**30, 2**62, -(10**18), None, "noon"])
def test_a_time_that_is_none_is_that_row_s_alone(opened: Any) -> None:
    candles, _ = read_klines([kline(), kline(opened=opened)])
    assert len(candles) == 1
    assert [row.reason for row in candles.malformed] == ["its times cannot be read"]


@pytest.mark.parametrize("stamp", ["true", "1", "-5", '"1767225600000"', str(10**30), "null"])
def test_a_clock_that_is_none_is_not_believed(stamp: str) -> None:
    with pytest.raises(PermanentError, match="expected serverTime"):
        _read_time(httpx.Response(200, text=f'{{"serverTime": {stamp}}}'))


def test_candles_have_one_dimension() -> None:
    prices = {name: np.ones((2, 1)) for name in ("open", "high", "low", "close", "volume")}
    with pytest.raises(ValueError, match="arrays of one dimension"):
        Candles(np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[us]"), prices)


@pytest.mark.parametrize("text", ["1_5", "1_000", "\u0661\u0662", "\uff11", "1\u00b2"])
def test_other_ways_to_write_a_number_are_none(text: str) -> None:
    assert np.isnan(number(text))


# ---- archives


def archive(*files: tuple[str, bytes]) -> httpx.Response:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files:
            target.writestr(name, content)
    return httpx.Response(200, content=packed.getvalue())


def read(answer: httpx.Response) -> list[list[str]]:
    import hashlib  # noqa: PLC0415

    return _read_rows(hashlib.sha256(answer.content).hexdigest(), answer)


def test_an_archive_s_file_has_a_largest_size() -> None:
    with pytest.raises(PermanentError, match="expected a month of klines"):
        read(archive(("x.csv", bytes(LARGEST_FILE + 1))))


@pytest.mark.parametrize("content", [b"\n\n1,2,3\n", b"1,2,3\n", b"open_time,open,high\n1,2,3\n"])
def test_blank_lines_and_headers_are_no_klines(content: bytes) -> None:
    assert read(archive(("x.csv", content))) == [["1", "2", "3"]]


@pytest.mark.parametrize("files", [(), (("x.csv", b'1,"' + b"x" * 200_000 + b'"\n'),), (("x.csv", b"\xff\xfe"),)])
def test_an_archive_that_cannot_be_read_is_one_sentence(files: Sequence[tuple[str, bytes]]) -> None:
    with pytest.raises(TransientError, match="the archive cannot be read"):
        read(archive(*files))


# ---- surprises


class Surprising:
    """A source that answers the first request and then raises."""

    kind = "surprising"
    native_timeframes = (Timeframe.H1,)

    def __init__(self, error: Exception, answers: int) -> None:
        self.error, self.answers = error, answers

    def fetch(self, requests: Sequence[Request], now: datetime) -> Iterator[Fetched]:
        for request in requests[: self.answers]:
            yield Fetched(request.series, Candles.none())
        raise self.error


@pytest.mark.parametrize("answers", [0, 1])
@pytest.mark.parametrize("error", [OverflowError("too large"), PermanentError("no"), MemoryError()])
def test_what_a_source_raises_ends_the_series_that_are_left(error: Exception, answers: int) -> None:
    from refresh_pipeline.market_files import load_markets  # noqa: PLC0415
    from refresh_pipeline.settings import load_settings  # noqa: PLC0415

    (market,) = load_markets(load_settings(enabled_markets="demo"))
    batch = [Series(name, Timeframe.H1) for name in list(market.instruments)[:3]]
    requests = [Request(series, instant(NOW) - np.timedelta64(1, "D"), instant(NOW)) for series in batch]
    fetched = list(fetch(Surprising(error, answers), market, requests, NOW))
    assert [each.series for each in fetched] == batch
    assert [each.error is None for each in fetched] == [True] * answers + [False] * (3 - answers)
    assert all(isinstance(each.error, SourceError) for each in fetched[answers:])
