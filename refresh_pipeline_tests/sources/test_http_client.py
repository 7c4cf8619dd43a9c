"""Rate limits, retries and discretion of the HTTP client, held against real servers on loopback."""

import asyncio
import logging
import selectors
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import pytest
from aiohttp import web

from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, PermanentError, Request, TransientError
from refresh_pipeline.sources.concurrency import in_background, side_by_side
from refresh_pipeline.sources.http_client import (
    CHUNKS_AHEAD,
    CONNECTIONS,
    AccessDenied,
    Client,
    Put,
    RetryPolicy,
    by_status,
    reason_of,
    retry_after,
)
from refresh_pipeline.sources.rate_limits import SharedLimit
from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer

TOKEN = "tok-5ac1f9e07d"
QUICK = RetryPolicy(attempts=4, first_wait=0.5, answer=5.0, limits=120.0)


class Echo(LoopbackServer):
    """Answers with what it was asked."""

    async def answer(self, request: web.Request) -> web.Response:
        return web.json_response(await request.json() if request.method == "POST" else dict(request.query))


class LeapingSelector(selectors.SelectSelector):
    """Instead of waiting for a timer it moves the clock there."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop that waits for no timer; for coroutines without sockets."""

    def __init__(self) -> None:
        self._leaping = LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


@dataclass
class Time:
    """A clock for the limit, and a sleep that takes no time on any other."""

    now: float = 1_717_243_200.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def venue() -> Iterator[Echo]:
    with Echo() as server:
        yield server


@pytest.fixture
def clock() -> Time:
    return Time()


def body_of(response: httpx.Response) -> Any:
    if error := by_status(response):
        raise error
    return response.json()


def get(
    base_url: str,
    directory: Path,
    clock: Time,
    retry_policy: RetryPolicy = QUICK,
    headers: Mapping[str, str] | None = None,
    **params: str,
) -> Any:
    async def once() -> Any:
        limit = SharedLimit(directory, "venue", 100_000, 60.0, clock)
        async with Client(base_url, limit, retry_policy, headers, clock.sleep) as client:
            return await client.get("/candles", params, 1, body_of)

    return asyncio.run(once())


def test_a_good_answer_is_read_at_the_first_attempt(venue: Echo, tmp_path: Path, clock: Time) -> None:
    assert get(venue.base_url, tmp_path, clock, pair="EUR/USD") == {"pair": "EUR/USD"}
    assert [asked.path for asked in venue.asked] == ["/candles"]


def test_a_base_url_may_have_a_path(venue: Echo, tmp_path: Path, clock: Time) -> None:
    get(f"{venue.base_url}/market/data/", tmp_path, clock)
    assert [asked.path for asked in venue.asked] == ["/market/data/candles"]


@pytest.mark.parametrize("fault", [Fault(500), Fault(503), Fault(408), Fault(429), Fault(drops=True)])
def test_what_may_be_better_next_time_is_asked_again(venue: Echo, tmp_path: Path, clock: Time, fault: Fault) -> None:
    venue.fail(fault, times=2)
    assert get(venue.base_url, tmp_path, clock, a="1") == {"a": "1"}
    assert len(venue.asked) == 3


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 451])
def test_what_will_not_change_is_asked_once(venue: Echo, tmp_path: Path, clock: Time, status: int) -> None:
    venue.fail(Fault(status, "no such thing"), times=9)
    with pytest.raises(PermanentError, match=f"GET 127.0.0.1:.*/candles: HTTP {status}: no such thing"):
        get(venue.base_url, tmp_path, clock)
    assert len(venue.asked) == 1


def test_attempts_are_bounded_and_further_apart_each_time(venue: Echo, tmp_path: Path, clock: Time) -> None:
    venue.fail(Fault(502, "bad gateway"), times=99)
    with pytest.raises(TransientError, match="HTTP 502: bad gateway"):
        get(venue.base_url, tmp_path, clock)
    assert len(venue.asked) == QUICK.attempts
    # Half a second of chance on top keeps those who failed together from coming back together.
    assert all(base < wait <= base + 0.5 for base, wait in zip([0.5, 1.0, 2.0], clock.slept, strict=True))


def test_retry_after_is_waited_for(venue: Echo, tmp_path: Path, clock: Time) -> None:
    venue.fail(Fault(429, headers={"Retry-After": "37"}))
    get(venue.base_url, tmp_path, clock)
    assert sum(clock.slept) == pytest.approx(37)
    assert len(venue.asked) == 2


def test_everybody_on_the_machine_waits_for_a_venue_that_wants_silence(
    venue: Echo, tmp_path: Path, clock: Time
) -> None:
    venue.fail(Fault(429, headers={"Retry-After": "60"}))
    with pytest.raises(TransientError):
        get(venue.base_url, tmp_path, clock, retry_policy=RetryPolicy(attempts=1))
    clock.slept.clear()
    get(venue.base_url, tmp_path, clock)
    assert sum(clock.slept) == pytest.approx(60, abs=1)


def test_a_ban_of_hours_fails_at_once_and_nobody_knocks_again(venue: Echo, tmp_path: Path, clock: Time) -> None:
    venue.fail(Fault(418, "IP banned", headers={"Retry-After": "7200"}), times=99)
    for _ in range(3):
        with pytest.raises(TransientError, match=r"in 3\d\d\d s \(.*HTTP 418: IP banned.*the budget of 120 s"):
            get(venue.base_url, tmp_path, clock)
    assert len(venue.asked) == 1
    assert sum(clock.slept) < 10


def test_waits_that_are_short_each_do_not_add_up_for_ever(venue: Echo, tmp_path: Path, clock: Time) -> None:
    venue.fail(Fault(429, headers={"Retry-After": "50"}), times=99)
    with pytest.raises(TransientError, match="the budget of 120 s"):
        get(venue.base_url, tmp_path, clock, retry_policy=RetryPolicy(attempts=50))
    assert len(venue.asked) == 3


def test_an_answer_that_takes_too_long_counts_as_none(venue: Echo, tmp_path: Path, clock: Time) -> None:
    venue.fail(Fault(delay=0.5), times=1)
    assert get(venue.base_url, tmp_path, clock, retry_policy=RetryPolicy(answer=0.1), a="1") == {"a": "1"}
    venue.fail(Fault(delay=0.5), times=9)
    with pytest.raises(TransientError, match=r"no answer within 0\.1 s"):
        get(venue.base_url, tmp_path, clock, retry_policy=RetryPolicy(attempts=2, answer=0.1))


def test_a_question_may_be_put_as_json_and_is_put_again_like_any_other(
    venue: Echo, tmp_path: Path, clock: Time
) -> None:
    async def once() -> Any:
        limit = SharedLimit(tmp_path, "venue", 100_000, 60.0, clock)
        async with Client(venue.base_url, limit, QUICK, {"access-token": TOKEN}, clock.sleep) as client:
            return await client.post("/charts", {"securityId": "1333"}, 1, body_of)

    venue.fail(Fault(503), times=1)
    assert asyncio.run(once()) == {"securityId": "1333"}
    assert [(each.status, each.headers["Content-Type"]) for each in venue.asked] == [
        (503, "application/json"), (200, "application/json")
    ]  # fmt: skip
    assert all(each.headers["access-token"] == TOKEN for each in venue.asked)


def test_a_client_that_was_turned_away_asks_nothing_more(venue: Echo, tmp_path: Path, clock: Time) -> None:
    def turned_away(response: httpx.Response) -> Any:
        raise AccessDenied(f"your {TOKEN} is not good")

    async def thrice() -> set[str]:
        limit = SharedLimit(tmp_path, "venue", 100_000, 60.0, clock)
        reasons = set()
        async with Client(venue.base_url, limit, QUICK, {"access-token": TOKEN}, clock.sleep) as client:
            for path in ("/a", "/b", "/c"):
                with pytest.raises(AccessDenied) as refused:
                    await client.get(path, {}, 1, turned_away)
                reasons.add(str(refused.value))
        return reasons

    assert asyncio.run(thrice()) == {f"{venue.base_url.removeprefix('http://')}: your *** is not good"}
    assert [asked.path for asked in venue.asked] == ["/a"]


def test_a_venue_is_not_run_into_where_it_minds() -> None:
    at_work, most, took = 0, [], 0.0

    async def chunks(request: Request) -> AsyncGenerator[Fetched, None]:
        nonlocal at_work
        at_work += 1
        await asyncio.sleep(0.05)
        most.append(at_work)
        at_work -= 1
        yield Fetched(request.series, Candles.none())

    async def put(fetched: Fetched) -> None:
        return None

    async def fetch() -> None:
        nonlocal took
        moment = np.datetime64("2024-01-01", "us")
        requests = [Request(Series(f"A{n}", Timeframe.m1), moment, moment) for n in range(12)]
        await side_by_side(requests, chunks, put, connects_every=0.11)
        took = asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(fetch())
    # 12 questions of 0.05 s. The second connection comes after 0.11 s, the third after 0.22 s; nobody waits at the end.
    assert len(most) == 12
    assert most[0] == 1
    assert max(most) == 3
    assert took == pytest.approx(0.33, abs=0.03)


def test_a_venue_that_is_not_there_is_named(tmp_path: Path, clock: Time) -> None:
    with Echo() as gone:
        base_url = gone.base_url
    with pytest.raises(TransientError, match=f"GET {base_url.removeprefix('http://')}/candles: no answer"):
        get(base_url, tmp_path, clock)


def test_no_secret_is_in_any_error_or_log(
    venue: Echo, tmp_path: Path, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    cut = f"{'-' * 195}{TOKEN}"
    bodies = (f"seen {TOKEN}", f"/x?key={TOKEN}", {"token": TOKEN}, f"{' x' * 98}{TOKEN}", cut)
    for fault in (*(Fault(status, body) for body in bodies for status in (403, 429, 503)), Fault(drops=True)):
        venue.fail(fault, times=QUICK.attempts)
        with pytest.raises((PermanentError, TransientError)) as failure:
            get(venue.base_url, tmp_path, clock, headers=headers, api_key="q-77aa01")
        assert TOKEN[:4] not in repr(failure.value)
        venue.heal()
    get(venue.base_url, tmp_path, clock, headers=headers, api_key="q-77aa01")
    assert all(asked.headers["Authorization"] == f"Bearer {TOKEN}" for asked in venue.asked)
    assert "attempt 2" in caplog.text
    assert TOKEN[:4] not in caplog.text
    assert "q-77aa01" not in caplog.text


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("37", 37.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Sat, 01 Jun 2024 12:02:00 GMT", 90.0),
        ("Sat, 01 Jun 2024 11:00:00 GMT", 0.0),
        ("99999999999", 3600.0),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("", None),
    ],
)
def test_silence_is_asked_for_in_seconds_or_by_a_date_of_the_servers_clock(given: str, seconds: float | None) -> None:
    response = httpx.Response(503, headers={"Retry-After": given, "Date": "Sat, 01 Jun 2024 12:00:30 GMT"})
    assert retry_after(response) == seconds


def test_a_date_without_a_servers_clock_is_held_against_the_machines() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert retry_after(httpx.Response(503, headers={"Retry-After": soon})) == pytest.approx(100, abs=2)


def request(number: int) -> Request:
    since = np.datetime64("2024-06-01", "us")
    return Request(Series(f"S{number}", Timeframe.m1), since, since + np.timedelta64(1, "D"))


def test_connections_are_few_and_kept(venue: Echo, tmp_path: Path, clock: Time) -> None:
    async def many() -> None:
        limit = SharedLimit(tmp_path, "venue", 100_000, 60.0, clock)
        async with Client(venue.base_url, limit, QUICK) as client, asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(client.get("/candles", {"n": number}, 1, body_of))

    asyncio.run(many())
    assert len(venue.asked) == 200
    assert len({asked.connection for asked in venue.asked}) <= CONNECTIONS


def test_a_request_that_has_to_wait_is_not_overtaken_by_a_lighter_one(venue: Echo, tmp_path: Path, clock: Time) -> None:
    asked_while_waiting: list[str] = []

    async def sleep(seconds: float) -> None:
        # Whoever overtakes has a moment for it after the first has come.
        while not venue.asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        asked_while_waiting.extend(asked.query["name"] for asked in venue.asked)
        clock.now += seconds

    async def three() -> None:
        limit = SharedLimit(tmp_path, "venue", 10, 60.0, clock)
        async with Client(venue.base_url, limit, QUICK, sleep=sleep) as client, asyncio.TaskGroup() as group:
            for name, weight in (("first", 5), ("heavy", 8), ("light", 1)):
                group.create_task(client.get("/candles", {"name": name}, weight, body_of))

    asyncio.run(three())
    assert asked_while_waiting == ["first"]
    assert len(venue.asked) == 3


def test_requests_begin_in_their_order_and_only_so_many_at_once() -> None:
    begun: list[str] = []
    going: set[str] = set()

    async def chunks(request: Request) -> AsyncGenerator[Fetched, None]:
        begun.append(request.series.instrument)
        going.add(request.series.instrument)
        assert len(going) <= CONNECTIONS
        await asyncio.sleep(0.001)
        going.remove(request.series.instrument)
        yield Fetched(request.series, Candles.none())

    requests = [request(number) for number in range(100)]
    got = list(in_background(lambda put: side_by_side(requests, chunks, put)))
    assert begun == [each.series.instrument for each in requests]
    assert len(got) == 100


def test_whatever_goes_wrong_with_one_series_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    wrong = {"S3": PermanentError("gone"), "S5": TransientError("busy"), "S7": KeyError("bug"), "S8": OSError("disk")}

    async def chunks(request: Request) -> AsyncGenerator[Fetched, None]:
        yield Fetched(request.series, Candles.none(), last=False)
        if error := wrong.get(request.series.instrument):
            raise error
        yield Fetched(request.series, Candles.none())

    got = list(in_background(lambda put: side_by_side([request(n) for n in range(10)], chunks, put)))
    ends = {each.series.instrument: each for each in got if each.last}
    assert len(ends) == 10
    assert {name for name, end in ends.items() if end.error} == set(wrong)
    assert {name for name, end in ends.items() if end.error and end.error.transient} == {"S5", "S8"}
    assert str(ends["S3"].error) == "S3 m1: gone"
    assert "KeyError" in str(ends["S7"].error)
    assert "S7 m1: unexpected error" in caplog.text


def threads_that_fetch() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fetching"]


def test_a_caller_that_stops_taking_ends_the_fetching() -> None:
    state = {"put": 0, "cancelled": False}

    async def without_end(put: Put) -> None:
        try:
            while True:
                await put(Fetched(request(1).series, Candles.none(), last=False))
                state["put"] += 1
        except asyncio.CancelledError:
            state["cancelled"] = True
            raise

    with closing(in_background(without_end)) as arriving:  # pyright: ignore[reportArgumentType]
        next(arriving)
        assert len(threads_that_fetch()) == 1
    assert state["cancelled"]
    assert threads_that_fetch() == []


def test_fetching_does_not_run_far_ahead_of_a_slow_caller() -> None:
    put_so_far = 0

    async def many(put: Put) -> None:
        nonlocal put_so_far
        for _ in range(CHUNKS_AHEAD * 3):
            await put(Fetched(request(1).series, Candles.none(), last=False))
            put_so_far += 1

    arriving = in_background(many)
    next(arriving)
    while put_so_far < CHUNKS_AHEAD:
        time.sleep(0.01)
    time.sleep(0.05)
    assert put_so_far <= CHUNKS_AHEAD + 2
    assert len(list(arriving)) == CHUNKS_AHEAD * 3 - 1


def test_what_the_fetching_itself_raises_reaches_the_caller_after_what_had_arrived() -> None:
    async def failing(put: Put) -> None:
        await put(Fetched(request(1).series, Candles.none()))
        raise OSError("no space left")

    arriving = in_background(failing)
    next(arriving)
    with pytest.raises(OSError, match="no space left"):
        next(arriving)
    assert threads_that_fetch() == []


def test_a_refused_connection_is_named_without_the_librarys_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    async def asked() -> BaseException:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError) as refused:
                await session.get(f"http://127.0.0.1:{port}/")
        return refused.value

    assert reason_of(asyncio.run(asked())) == f"cannot connect to 127.0.0.1:{port}: Connection refused"
    assert reason_of(OSError("broken pipe")) == "broken pipe"
