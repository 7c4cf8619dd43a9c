"""Answers that are kept, and requests that were asked before: the same answers, made once, within bounds."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from starlette.requests import Request

from refresh_pipeline.api import known
from refresh_pipeline.api.answers import KEPT_BESIDE, AnswerCache, Body
from refresh_pipeline.api.expected import Expected
from refresh_pipeline.api.known import KnownRequests
from refresh_pipeline.market.calendars.registry import calendar_named
from refresh_pipeline.market.candles import instant, iso_utc
from refresh_pipeline.market.timeframe import Timeframe

ROWS = "/api/v1/data/BTC-USD/m5?limit=200&layer=candles"
COUNTED = 'refresh_api_requests_total{route="/api/v1/data/{instrument:path}/{timeframe}",method="GET",status="200"} '


@pytest.mark.parametrize("path", [ROWS, f"{ROWS}&format=csv", "/api/v1/data/BTC-USD/m5/latest"])
def test_a_request_that_was_asked_before_has_the_same_answer(client: httpx.Client, path: str) -> None:
    plain = {"Accept-Encoding": "identity"}
    asked = [client.get(path, headers=plain) for _ in range(3)]
    assert {each.content for each in asked} == {asked[0].content}
    for each in asked:
        each.headers.pop("date")
        assert each.headers == asked[0].headers
    tag = asked[0].headers["etag"]
    assert client.get(path, headers={**plain, "If-None-Match": tag}).status_code == 304
    head = client.head(path, headers=plain)
    assert (head.status_code, head.headers["etag"], head.content) == (200, tag, b"")


def test_packed_bytes_are_the_same_and_have_a_tag_of_their_own(client: httpx.Client) -> None:
    plain = client.get(ROWS, headers={"Accept-Encoding": "identity"})
    packed = [client.get(ROWS, headers={"Accept-Encoding": "gzip"}) for _ in range(2)]
    for each in packed:
        assert (each.headers["content-encoding"], each.content) == ("gzip", plain.content)
        assert each.headers["etag"] == f'{plain.headers["etag"][:-1]}-gzip"'
    known_by = {"Accept-Encoding": "gzip", "If-None-Match": packed[0].headers["etag"]}
    assert client.get(ROWS, headers=known_by).status_code == 304
    assert client.get(ROWS, headers={**known_by, "Accept-Encoding": "identity"}).status_code == 200


def test_accept_tells_two_requests_apart_and_both_are_counted(client: httpx.Client) -> None:
    def counted() -> int:
        lines = client.get("/metrics").text.splitlines()
        return sum(int(float(line.removeprefix(COUNTED))) for line in lines if line.startswith(COUNTED))

    before = counted()
    for _ in range(2):
        assert client.get(ROWS, headers={"Accept": "text/csv"}).headers["content-type"].startswith("text/csv")
        assert client.get(ROWS, headers={"Accept": "*/*"}).headers["content-type"] == "application/json"
    assert counted() == before + 4


def test_what_many_ask_at_once_is_made_once() -> None:
    made: list[int] = []

    async def make() -> Body:
        made.append(1)
        await asyncio.sleep(0.01)
        return Body(b"rows", "text/plain", '"1"')

    async def ask() -> None:
        cache = AnswerCache()
        asked = [asyncio.ensure_future(cache.of("question", 1, make)) for _ in range(5)]
        await asyncio.sleep(0)
        # Who goes takes nothing from the others.
        asked[0].cancel()
        assert {body.content for body in await asyncio.gather(*asked[1:])} == {b"rows"}
        assert (await cache.of("question", 1, make), len(made)) == (cache.get("question", 1), 1)
        await cache.of("question", 2, make)
        assert (len(made), cache.get("question", 1)) == (2, None)

    asyncio.run(ask())


def test_a_fault_reaches_everybody_who_waits_and_is_not_kept() -> None:
    async def fail() -> Body:
        await asyncio.sleep(0.01)
        raise ValueError("no rows")

    async def make() -> Body:
        return Body(b"", "text/plain", '"1"')

    async def ask() -> None:
        cache = AnswerCache()
        found = await asyncio.gather(*(cache.of("question", 1, fail) for _ in range(3)), return_exceptions=True)
        assert [str(each) for each in found] == ["no rows"] * 3
        assert (await cache.of("question", 1, make)).tag == '"1"'

    asyncio.run(ask())


def test_kept_answers_take_no_more_than_they_may() -> None:
    cache = AnswerCache(most=10 * (KEPT_BESIDE + 100))
    for number in range(1000):
        cache.put(number, 1, Body(b"x" * 100, "text/plain", '"1"'))
        assert cache.bytes <= cache.most
    assert [number for number in range(1000) if cache.get(number, 1)] == list(range(990, 1000))


def test_known_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MOST_REQUESTS", 3)

    class Silence:
        async def answer(self, service: object, headers: object) -> known.Response:
            return known.Response()

    kept, question = KnownRequests(), Silence()
    scopes = [{"type": "http", "path": f"/{number}", "query_string": b"", "headers": []} for number in range(5)]
    scopes.append({"type": "http", "path": "/long", "query_string": b"x" * known.LONGEST_REQUEST, "headers": []})
    for scope in scopes:
        kept.put(Request(scope), question)
    assert [kept.get(scope) for scope in scopes] == [None, None, question, question, question, None]


@pytest.mark.parametrize("timeframe", [Timeframe.m1, Timeframe.H4, Timeframe.D1, Timeframe.W1, Timeframe.MN1])
@pytest.mark.parametrize("name", ["crypto", "fx", "nse"])
def test_the_expected_candle_is_the_calendars_at_every_moment(name: str, timeframe: Timeframe) -> None:
    calendar, expected = calendar_named(name), Expected()
    begin, rng = datetime(2026, 3, 1, tzinfo=UTC), np.random.default_rng(1)
    # Forward over closes, nights and weekends, then back: clocks are set.
    moments = [begin + timedelta(seconds=int(each)) for each in np.sort(rng.integers(0, 40 * 86_400, 60))]
    for now in [*moments, begin]:
        shown = expected.open_time(calendar, timeframe, now)
        assert shown == iso_utc(calendar.last_closed(timeframe, instant(now)))


def test_nothing_is_expected_past_the_end_of_a_calendar() -> None:
    calendar, expected = calendar_named("nse"), Expected()
    assert calendar.last_known is not None
    ends = calendar.last_known.astype(datetime).replace(tzinfo=UTC)
    before, after = ends - timedelta(seconds=1), ends + timedelta(seconds=1)
    for now in (before, after, ends, before):
        is_known = now < ends
        assert (expected.open_time(calendar, Timeframe.m1, now) is not None) == is_known
