"""News as they come: the mailbox of a slow client, Server-Sent Events with resume, WebSockets; over a real server."""

import asyncio
import json
import re
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from socket import create_connection
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from refresh_pipeline.api import newsroom
from refresh_pipeline.api.access import rules_of
from refresh_pipeline.api.app import create_app
from refresh_pipeline.api.news import MOST_WAITING, Hub, Mailbox, News, Subscription, Topic
from refresh_pipeline.api.reading import OPENING
from refresh_pipeline.api.service import Service
from refresh_pipeline.api_files import load_collections
from refresh_pipeline.market.apis import Collection
from refresh_pipeline.market.candles import TIME_UNIT
from refresh_pipeline.market.series import Series
from refresh_pipeline.streaming.push import PushDoor
from refresh_pipeline.warehouse import snapshots
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.connection import transaction
from refresh_pipeline.warehouse.live import Wave
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.snapshots import Arrival
from refresh_pipeline_tests.api.served import BTC, ETH, KEY, NOW, READ_KEY, Shop, served, wait_for
from refresh_pipeline_tests.warehouse.warehouse_fixtures import candles, flat, opens

V1 = "/api/v1"
SECONDS = 30


def news(instrument: str, since: str, price: float, version: int = 1, timeframe: str = "m5") -> News:
    body = {"type": "candles", "version": version, "market": "fair", "timeframe": timeframe}
    row = {"open_time": since, "close": price}
    series = {
        (instrument, "candles"): {
            "instrument": instrument,
            "layer": "candles",
            "since": since,
            "last": row,
            "rows": [row],
        }
    }
    return News(Topic.candles, (Topic.candles, "fair", timeframe), body, series, version)


def received(mailbox: Mailbox) -> list[dict[str, Any]]:
    async def all_of_them() -> list[dict[str, Any]]:
        messages = []
        while (message := await mailbox.next(0.01)) is not None:
            messages.append(json.loads(message if isinstance(message, bytes) else message.encoded))
        return messages

    return asyncio.run(all_of_them())


def mailbox_of(*subscriptions: Subscription, most: int = 1000) -> Mailbox:
    mailbox = Mailbox(most)
    mailbox.subscriptions = list(subscriptions)
    return mailbox


def test_newer_news_of_a_series_replaces_older_and_keeps_every_row() -> None:
    mailbox = mailbox_of(Subscription(Topic.candles, rows=True))
    for number in range(5000):
        mailbox.offer(news("A", f"2026-01-01T00:{number % 3:02d}:00Z", number, number))
    mailbox.offer(news("B", "2026-01-01T00:00:00Z", 7.0, 5000))
    [message] = received(mailbox)
    first, second = message["series"]
    assert (message["version"], first["since"], second["instrument"]) == (5000, "2026-01-01T00:00:00Z", "B")
    assert [row["close"] for row in first["rows"]] == [4998, 4999, 4997]


def test_what_does_not_fit_is_counted() -> None:
    mailbox = mailbox_of(Subscription(Topic.runs), most=10)
    for number in range(13):
        mailbox.offer(News(Topic.runs, number, {"type": "run_update", "run_id": number}))
    messages = received(mailbox)
    assert messages[0] == {"type": "lagging", "dropped": 3}
    assert [message["run_id"] for message in messages[1:]] == list(range(3, 13))


def test_a_subscription_hears_what_it_named() -> None:
    mailbox = mailbox_of(Subscription(Topic.candles, "fair", frozenset({"A"}), "m5"))
    for one in (news("A", "x", 1.0), news("B", "x", 1.0), news("A", "x", 1.0, timeframe="H1")):
        mailbox.offer(one)
    mailbox.offer(News(Topic.runs, 1, {"type": "run_update"}))
    [message] = received(mailbox)
    assert [(one["instrument"], "rows" in one) for one in message["series"]] == [("A", False)]


def test_one_message_is_encoded_once_for_all() -> None:
    hub, boxes = Hub(), [mailbox_of(Subscription(Topic.candles, rows=True)) for _ in range(3)]
    for mailbox in boxes:
        hub.join(mailbox)
    message = news("A", "x", 1.0)
    hub.publish(message)
    assert all(asyncio.run(mailbox.next(0)) is message for mailbox in boxes)


# ---- over a real server


@pytest.fixture(scope="module")
def busy_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """One that the tests here refresh while it is served."""
    shop = Shop.opened(tmp_path_factory.mktemp("push") / "shop", REFRESH_API_RATE="100000")
    shop.refresh({BTC: candles(50), ETH: candles(20, seed=1)})
    return shop


@contextmanager
def events(client: httpx.Client, query: str = "", **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream: name, id and data."""
    with client.stream("GET", f"{V1}/events{query}", headers=headers, timeout=SECONDS) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"

        def parsed() -> Iterator[dict[str, Any]]:
            fields: dict[str, Any] = {}
            for line in lines:
                if not line and fields:
                    yield fields
                    fields = {}
                elif line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = json.loads(value) if name == "data" else value

        yield parsed()


def test_a_commit_is_told_and_a_stream_resumes_where_it_ended(busy_shop: Shop) -> None:
    with served(busy_shop) as client:
        with events(client, "?topics=candles&rows=true") as stream:
            busy_shop.refresh({BTC: flat(3.5, 50)})
            first = next(one for one in stream if any(s["layer"] == "candles" for s in one["data"]["series"]))
        [series] = [one for one in first["data"]["series"] if one["layer"] == "candles"]
        assert (first["event"], first["data"]["market"], first["data"]["timeframe"]) == ("candles", "fair", "m5")
        assert (series["instrument"], series["since"]) == ("BTC/USD", "2024-01-01T04:10:00Z")
        assert (series["last"]["close"], len(series["rows"])) == (3.5, 1)
        missed_from = client.get(f"{V1}/changes").json()["version"]
        busy_shop.refresh({ETH: flat(4.5, 20)})
        wait_for(lambda: client.get(f"{V1}/changes").json()["version"] > missed_from)
        with events(client, "?topics=candles", **{"last-event-id": str(missed_from)}) as stream:
            assert {one["instrument"] for one in next(stream)["data"]["series"]} == {"ETH/USD"}
        with events(client, "?topics=candles", **{"last-event-id": "5"}) as stream:
            assert next(stream)["data"]["type"] == "reset"


def test_a_changed_state_of_a_market_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newsroom, "STATUS_EVERY", 0.1)
    shop = Shop.opened(tmp_path / "shop", REFRESH_DAGSTER_URL="http://127.0.0.1:9")
    with served(shop) as client, socket_of(client, "/api/v2/ws") as socket:
        told(socket, "connected")
        told(socket, "subscribed", type="subscribe_all")
        before = client.get(f"{V1}/status").json()["markets"][0]["newest_candle"]
        shop.refresh({BTC: candles(50)})
        # The first look only remembers.
        shop.refresh({BTC: candles(60)})
        status = told(socket, "status_update")["status"]
        assert before != status["markets"][0]["newest_candle"]
        assert status["markets"][0]["name"] == "fair"


def test_a_wrong_topic_is_a_problem(client: httpx.Client) -> None:
    assert client.get(f"{V1}/events?topics=gossip").json()["type"] == "/problems/invalid-parameter"
    assert client.get(f"{V1}/events?instrument=BTX").json()["type"] == "/problems/unknown-instrument"


def socket_of(client: httpx.Client, path: str = f"{V1}/ws", **headers: str) -> ClientConnection:
    url = str(client.base_url).replace("http", "ws").rstrip("/")
    return connect(f"{url}{path}", additional_headers=headers, open_timeout=SECONDS)


def told(socket: ClientConnection, kind: str = "", **message: Any) -> dict[str, Any]:
    """The next message of a kind, after one was sent."""
    if message:
        socket.send(json.dumps(message))
    while True:
        answer = json.loads(socket.recv(timeout=SECONDS))
        if not kind or answer["type"] == kind:
            return answer


def test_the_trackers_messages(client: httpx.Client) -> None:
    with socket_of(client, "/api/v2/ws") as socket:
        hello = told(socket)
        assert (hello["type"], hello["protocol"], hello["version"] > 0) == ("connected", 1, True)
        assert told(socket, type="ping", id=7) | {"timestamp": ""} == {"type": "pong", "timestamp": "", "id": 7}
        assert told(socket, type="get_all_data") == {"type": "data_response", "data": {}}
        assert told(socket, type="get_schedule") == {"type": "schedule_response", "schedules": {}}
        subscribed = {"type": "subscribed", "api_id": "*", "status": "success"}
        assert told(socket, type="subscribe_all") == subscribed
        assert told(socket, type="unsubscribe", api_id="*")["type"] == "unsubscribed"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid-json"),
        ("[]", "invalid-message"),
        ("{}", "missing-field"),
        ('{"type": "dance"}', "unknown-type"),
        ('{"type": "subscribe"}', "missing-field"),
        ('{"type": "subscribe", "api_id": "fear"}', "unknown-api"),
        ('{"type": "subscribe", "api_id": 5}', "invalid-field"),
        ('{"type": "subscribe", "topic": "candles", "market": "x"}', "unknown-market"),
        ('{"type": "force_update", "api_id": "fear"}', "unknown-api"),
    ],
)
def test_a_wrong_message_is_answered_and_the_connection_stays(client: httpx.Client, text: str, code: str) -> None:
    with socket_of(client) as socket:
        told(socket, "connected")
        socket.send(text)
        assert (answer := told(socket))["type"] == "error"
        assert answer["code"] == code
        assert told(socket, type="ping")["type"] == "pong"


def test_a_subscription_brings_candles(busy_shop: Shop) -> None:
    with served(busy_shop) as client, socket_of(client) as socket:
        told(socket, "connected")
        told(socket, "subscribed", type="subscribe", topic="candles", instrument="btcusd", timeframe="5m", rows=True)
        busy_shop.refresh({BTC: flat(5.5, 50), ETH: flat(2.0, 20)})
        message = told(socket, "candles")
        assert {one["instrument"] for one in message["series"]} == {"BTC/USD"}
        assert message["series"][0]["layer"] == "candles"


def test_what_is_too_large_or_too_much_is_refused(client: httpx.Client) -> None:
    with socket_of(client) as socket:
        told(socket, "connected")
        for number in range(100):
            answer = told(socket, type="subscribe", topic="candles", instrument="BTC/USD", rows=bool(number % 2))
            assert answer["type"] == "subscribed"
        socket.send("x" * 70_000)
        with pytest.raises(ConnectionClosed) as closed:
            told(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_a_foreign_page_is_refused_before_it_is_accepted(client: httpx.Client) -> None:
    with pytest.raises(InvalidStatus) as refused:
        socket_of(client, origin="https://evil.example")
    assert refused.value.response.status_code == 403


def test_a_key_comes_in_a_header_or_in_the_first_message(tmp_path: Path) -> None:
    shop = Shop.opened(tmp_path / "shop", REFRESH_API_KEY=KEY, REFRESH_API_READ_KEY=READ_KEY)
    with served(shop) as client:
        with socket_of(client, **{"x-api-key": READ_KEY}) as socket:
            assert told(socket)["type"] == "connected"
            denied = told(socket, type="force_update", api_id="x")
            assert denied["code"] == "read-only-key"
        with socket_of(client) as socket:
            assert told(socket, type="auth", key=KEY)["type"] == "connected"
        with socket_of(client) as socket:
            socket.send(json.dumps({"type": "ping"}))
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=SECONDS)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401


def test_a_client_that_never_reads_holds_up_nobody(busy_shop: Shop) -> None:
    with served(busy_shop) as client, socket_of(client) as idle, socket_of(client) as busy:
        for socket in (idle, busy):
            told(socket, "connected")
            told(socket, "subscribed", type="subscribe", topic="candles")
        for number in range(2):
            busy_shop.refresh({BTC: flat(float(number + 3), 52 + number)})
            wait_for(lambda wanted=float(number + 3): _close_of(told(busy, "candles")) == wanted)


async def _websocket_of(port: int) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
    """A WebSocket by hand that wants the news of runs: no library may read ahead of the test."""
    reader, writer = await _connected(port)
    lines = [f"GET {V1}/ws HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {b64encode(bytes(16)).decode()}", "", ""]
    writer.write("\r\n".join(lines).encode())
    await reader.readuntil(b"\r\n\r\n")
    asked = b'{"type":"subscribe","topic":"runs"}'
    # A client masks what it sends; zeros leave it as it is.
    writer.write(bytes([0x81, 0x80 | len(asked)]) + bytes(4) + asked)
    await reader.readuntil(b'"subscribed"')
    return reader, writer


async def _stream_of(port: int) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
    reader, writer = await _connected(port)
    writer.write(f"GET {V1}/events?topics=runs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    await reader.readuntil(b"retry: 2000")
    return reader, writer


async def _connected(port: int) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    door.connect(("127.0.0.1", port))
    return await asyncio.open_connection(sock=door, limit=8192)


RUN, DROPPED = re.compile(rb'"run_id":"(\d+)"'), re.compile(rb'"dropped":(\d+)')


async def _heard_by(reader: asyncio.StreamReader) -> tuple[list[int], int]:
    """The runs that a client is told of up to the last one, and how many it is told that it missed."""
    heard = b""
    while b'"run_id":"%d"' % LAST_RUN not in heard[-4096:]:
        heard += await reader.read(65536)
    return [int(one) for one in RUN.findall(heard)], sum(int(one) for one in DROPPED.findall(heard))


LAST_RUN = 1299


def test_fifty_clients_hear_everything_beside_two_that_never_read(busy_shop: Shop) -> None:
    async def scenario(service: Service, port: int) -> None:
        fast = [await (_stream_of if number % 2 else _websocket_of)(port) for number in range(50)]
        read = set(service.hub._mailboxes)
        slow = [await open_client(port) for open_client in (_websocket_of, _stream_of)]
        hearing = [asyncio.create_task(_heard_by(reader)) for reader, _ in fast]
        for number in range(LAST_RUN + 1):
            service.hub.publish(News(Topic.runs, number, {"type": "run_update", "run_id": f"{number}", "x": "x" * 800}))
            while number % 100 == 0 and any(map(len, read)):
                await asyncio.sleep(0.001)
        assert [await one for one in hearing] == [(list(range(LAST_RUN + 1)), 0)] * 50
        # What waits for those that do not read is bounded; once they read, they learn how much they have missed.
        waiting = sorted(len(mailbox) for mailbox in service.hub._mailboxes)
        assert waiting == [0] * 50 + [MOST_WAITING] * 2
        for reader, _ in slow:
            heard, dropped = await _heard_by(reader)
            assert dropped > 0
            assert len(heard) + dropped == LAST_RUN + 1
        for _, writer in [*fast, *slow]:
            writer.close()

    asyncio.run(_beside_a_server(busy_shop, scenario))


async def _beside_a_server(shop: Shop, scenario: Callable[[Service, int], Awaitable[None]]) -> None:
    """Run a scenario in the loop of a server whose sockets buffer little."""
    service = Service.of(shop.settings, shop.markets, lambda: NOW)
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
        app = create_app(service, rules_of(shop.settings, "127.0.0.1", port))
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[door]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(4 * SECONDS):
                await scenario(service, port)
        finally:
            server.should_exit = True
            await serving


def _close_of(message: dict[str, Any]) -> float | None:
    listed = [one["last"]["close"] for one in message["series"] if one["layer"] == "candles"]
    return listed[-1] if listed else None


MINE = """
name: mine
apis:
  fear: {category: sentiment, url: "https://api.example/fng", every: 1h}
  gas: {url: "https://api.example/gas", every: 1h}
"""


def test_snapshots_are_asked_for_and_told(tmp_path: Path) -> None:
    (tmp_path / "apis").mkdir()
    (tmp_path / "apis" / "mine.yaml").write_text(MINE)
    shop = Shop.opened(tmp_path / "shop", REFRESH_APIS="mine", REFRESH_APIS_DIR=str(tmp_path / "apis"))
    [mine] = load_collections(shop.settings)
    _store(shop, mine, {"value": 1})
    with served(shop) as client, socket_of(client, "/api/v2/ws") as socket:
        told(socket, "connected")
        assert told(socket, type="get_data", api_id="fear")["data"]["data"] == {"value": 1}
        assert told(socket, type="get_data", api_id="gas")["data"] is None
        schedules = told(socket, type="get_schedule")["schedules"]
        assert (schedules["fear"]["interval"], schedules["fear"]["success_count"]) == (3600, 1)
        assert told(socket, type="subscribe", api_id="fear")["status"] == "success"
        _store(shop, mine, {"value": 2}, NOW + timedelta(hours=1))
        update = told(socket, "api_update")
        assert (update["api_id"], update["data"], update["metadata"]["category"]) == ("fear", {"value": 2}, "sentiment")
        told(socket, "subscribed", type="subscribe", topic="schedules")
        socket.send(json.dumps({"type": "update_schedule", "api_id": "gas", "interval": 60, "enabled": False}))
        answers = {answer["type"]: answer for answer in (told(socket), told(socket))}
        assert answers["schedule_update"]["schedule"]["interval"] == 60
        assert answers["schedule_updated"]["status"] == "success"
        assert told(socket, type="update_schedule", api_id="gas", interval=-5)["code"] == "invalid-field"


def _store(shop: Shop, mine: Collection, payload: Any, now: datetime = NOW) -> None:
    with OPENING, shop.warehouse.get_connection() as connection, transaction(connection):
        snapshots.ensure(connection, mine)
        arrival = Arrival(Attempt(Outcome.updated), timestamp(now), payload, 200, "https://api.example/fng", "json", 9)
        snapshots.store(connection, mine, {"fear": arrival}, now)


def _wave_after(shop: Shop, prices: dict[Series, float]) -> Wave:
    """One new candle of each series, the one after its newest stored one."""
    stats = shop.warehouse.series_stats(shop.market, list(prices))
    last = np.array([stats[series].last_open_time for series in prices], dtype=TIME_UNIT)
    closes = np.array(list(prices.values()))
    bars = {"open": closes, "high": closes + 1, "low": closes - 1, "close": closes, "volume": closes}
    counts = np.array([stats[series].candle_count for series in prices], dtype=np.int64)
    following = (last + np.timedelta64(5, "m")).astype(TIME_UNIT)
    return Wave(list(prices), following, bars, {}, {}, [], counts, last, {}, ["demo"] * len(prices))


def _computed(wave: Wave) -> Wave:
    """The wave with some computed columns of its two series."""
    colors = np.array(["green", None], dtype=object)
    enhanced = {"median": np.array([42.0, 6.5]), "fractal_up_2": np.array([0.0, 1.0]), "ao_color": colors}
    return replace(wave, enhanced=enhanced, indicators={"rsi_14": np.array([np.nan, 55.5])})


LAYERS = "enhanced, indicators"


def _number_of(opened: str) -> int:
    return int((np.datetime64(opened[:-1]) - opens(1, 1)[0]) / np.timedelta64(5, "m"))


def _told_of_computed(bitcoin: str, ether: str) -> dict[tuple[str, str], dict[str, object]]:
    return {
        ("BTC/USD", "enhanced"): {"open_time": bitcoin, "median": 42.0, "fractal_up_2": 0, "ao_color": "green"},
        ("ETH/USD", "enhanced"): {"open_time": ether, "median": 6.5, "fractal_up_2": 1, "ao_color": None},
        ("BTC/USD", "indicators"): {"open_time": bitcoin, "rsi_14": None},
        ("ETH/USD", "indicators"): {"open_time": ether, "rsi_14": 55.5},
    }


def test_candles_of_a_live_run_are_served_and_told_before_they_are_in_the_file(busy_shop: Shop) -> None:
    url = f"{V1}/data/BTC/USD/5m?layer=candles&limit=2&columns=open_time,close,source,complete"
    folder = busy_shop.settings.live_dir
    with (
        served(busy_shop) as client,
        PushDoor(folder, "fair") as door,
        socket_of(client) as socket,
        socket_of(client) as named,
    ):
        told(named, "connected")
        assert (folder / "fair.json").stat().st_mode & 0o777 == 0o600
        told(socket, "connected")
        told(socket, "subscribed", type="subscribe", topic="candles", rows=True)
        assert told(named, "subscribed", type="subscribe", topic="candles", layers=LAYERS)["layers"] == LAYERS
        before = client.get(url)
        wave = _computed(_wave_after(busy_shop, {BTC: 42.5, ETH: 7.0}))
        # The API looks for doors twice a second.
        wait_for(lambda: door.subscribers > 0)
        door.push([wave])
        message = told(socket, "candles")
        assert (message["live"], message["version"]) == (True, client.get(f"{V1}/changes").json()["version"])
        assert [one["last"]["close"] for one in message["series"]] == [42.5, 7.0]
        # Computed columns reach those who named their layer, and nobody else.
        columns = {(one["instrument"], one["layer"]): one["last"] for one in told(named, "candles")["series"]}
        opened = message["series"][0]["since"]
        assert columns == _told_of_computed(opened, message["series"][1]["since"])
        assert {one["layer"] for one in message["series"]} == {"candles"}
        answer = client.get(url)
        [_, newest] = answer.json()["data"]
        assert newest == {"open_time": opened, "close": 42.5, "source": "demo", "complete": None}
        assert answer.headers["etag"] != before.headers["etag"]
        assert client.get(f"{V1}/data/BTC/USD/5m/latest?layer=candles").json()["latest"]["close"] == 42.5
        # The same candle twice, and one after a hole, are nothing.
        later = replace(wave, open_time=wave.open_time + np.timedelta64(10, "m"), last_before=wave.open_time + 1)
        door.push([wave, later])
        # What is stored takes the place of what was pushed.
        at = (opened, 43.5)
        busy_shop.refresh({BTC: flat(43.5, _number_of(opened) + 1)})
        wait_for(lambda: tuple(client.get(url).json()["data"][-1][name] for name in ("open_time", "close")) == at)
        assert client.get(url).json()["version"] > message["version"]
    assert not (folder / "fair.json").exists()


def test_a_door_sends_nothing_to_who_does_not_know_its_secret(tmp_path: Path) -> None:
    with PushDoor(tmp_path, "fair") as door:
        port = json.loads((tmp_path / "fair.json").read_text())["port"]
        with create_connection(("127.0.0.1", port), timeout=SECONDS) as stranger:
            stranger.sendall(b"let me in\n")
            assert stranger.recv(100) == b""
        assert door.subscribers == 0
