"""WebSockets /api/v1/ws and /api/v2/ws: one protocol, the tracker's messages and subscriptions by topic."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from refresh_pipeline.api.events import MOST_STREAMS, missed, subscription_of
from refresh_pipeline.api.guard import ROLE
from refresh_pipeline.api.login import Role
from refresh_pipeline.api.news import Mailbox, News, Subscription, Topic
from refresh_pipeline.api.problems import ProblemError
from refresh_pipeline.api.service import Service
from refresh_pipeline.market.candles import iso_utc

router = APIRouter()

PROTOCOL = 1
SECONDS_TO_AUTHENTICATE = 5.0
MOST_SUBSCRIPTIONS = 100
LONGEST_MESSAGE = 64 * 1024
UNAUTHORIZED, TOO_LARGE, TRY_LATER = 4401, 1009, 1013
SHORTEST_INTERVAL, LONGEST_INTERVAL = 10, 604_800
Message = Mapping[str, Any]
Handler = Callable[["Client", Message], Coroutine[Any, Any, None]]


class Wrong(Exception):
    """A message that cannot be answered as it is: a code for programs, a sentence for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class Client:
    """One connection: what it may do, its mailbox, and the answers that go before the news."""

    service: Service
    socket: WebSocket
    role: Role | None
    mailbox: Mailbox = field(default_factory=Mailbox)
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    # API ids that it is subscribed to; * for all.
    apis: set[str] = field(default_factory=set)
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self, message: bytes) -> None:
        """Send one message; answers and news take turns."""
        async with self.sending:
            await self.socket.send_text(message.decode())

    async def answer(self, asked: Message, kind: str, **fields: Any) -> None:
        """Answer a message, with its id where it has one."""
        number = {"id": asked["id"]} if "id" in asked else {}
        await self.send(orjson.dumps({"type": kind, **fields, **number}))


@router.websocket("/api/v1/ws")
@router.websocket("/api/v2/ws")
async def websocket(socket: WebSocket) -> None:
    """Answer messages and send news until the client goes."""
    service: Service = socket.app.state.service
    await socket.accept()
    if service.listeners.total() >= MOST_STREAMS:
        await socket.close(TRY_LATER, "too many connections")
        return
    client = Client(service, socket, socket.scope.get(ROLE))
    service.listeners["ws"] += 1
    try:
        if client.role is None and not await _authenticated(client):
            await socket.close(UNAUTHORIZED, "a key is needed")
            return
        await _serve(client)
    except (WebSocketDisconnect, RuntimeError):
        # The client has gone, also in the middle of a message to it.
        return
    finally:
        service.listeners["ws"] -= 1


async def _authenticated(client: Client) -> bool:
    try:
        async with asyncio.timeout(SECONDS_TO_AUTHENTICATE):
            message = orjson.loads(await client.socket.receive_text())
    except (TimeoutError, ValueError, KeyError):
        return False
    if not isinstance(message, dict) or message.get("type") != "auth" or not isinstance(message.get("key"), str):
        return False
    address = client.socket.client.host if client.socket.client else ""
    client.role, _ = client.service.guard.role_of(message["key"], address)
    return client.role is not None


async def _serve(client: Client) -> None:
    service = client.service
    hello = {"type": "connected", "client_id": client.name, "message": "Connected to Refresh Pipeline"}
    hello |= {"protocol": PROTOCOL, "epoch": service.feed.epoch, "version": service.feed.version}
    await client.send(orjson.dumps(hello))
    leave = service.hub.join(client.mailbox)
    sender = asyncio.create_task(_send_news(client))
    try:
        while True:
            text = await client.socket.receive_text()
            if len(text.encode()) > LONGEST_MESSAGE:
                await client.socket.close(TOO_LARGE, "a message holds 64 kB at most")
                return
            await _take(client, text)
    finally:
        leave()
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def _send_news(client: Client) -> None:
    while (message := await client.mailbox.next(3600)) or not client.mailbox.closed:
        if message is not None:
            await client.send(message.encoded if isinstance(message, News) else message)


async def _take(client: Client, text: str) -> None:
    asked: Message = {}
    try:
        asked = _parsed(text)
        await _handler(asked)(client, asked)
    except Wrong as error:
        await client.answer(asked, "error", code=error.code, message=str(error))
    except ProblemError as error:
        await client.answer(asked, "error", code=error.problem.slug, message=str(error.detail))


def _handler(asked: Message) -> Handler:
    handler = HANDLERS.get(asked["type"])
    if handler is None:
        raise Wrong("unknown-type", f"type: found {asked['type']!r}; allowed: {', '.join(HANDLERS)}")
    return handler


def _parsed(text: str) -> Message:
    try:
        message = orjson.loads(text)
    except ValueError:
        raise Wrong("invalid-json", "the message is no JSON") from None
    if not isinstance(message, dict):
        raise Wrong("invalid-message", "a message is an object with a type")
    if not isinstance(message.get("type"), str):
        raise Wrong("missing-field", "type: missing; a message is an object with a type")
    return message


def _text(asked: Message, name: str, *, needed: bool = False) -> str | None:
    value = asked.get(name)
    if value is None and needed:
        raise Wrong("missing-field", f"{name}: missing")
    if value is not None and not isinstance(value, str):
        raise Wrong("invalid-field", f"{name}: found {type(value).__name__}; allowed: text")
    return value


def _known_api(client: Client, asked: Message) -> str:
    api_id = _text(asked, "api_id", needed=True)
    assert api_id is not None
    if not client.service.snapshots.knows(api_id):
        raise Wrong("unknown-api", f"api_id: found {api_id!r}; no API has this id")
    return api_id


def _require_full(client: Client, asked: Message) -> None:
    if client.role is not Role.full:
        raise Wrong("read-only-key", f"{asked['type']} needs a key of REFRESH_API_KEY")


async def _subscribe(client: Client, asked: Message) -> None:
    if len(client.mailbox.subscriptions) + len(client.apis) >= MOST_SUBSCRIPTIONS:
        raise Wrong("too-many-subscriptions", f"a connection holds {MOST_SUBSCRIPTIONS} at most")
    topic = _text(asked, "topic")
    if topic is None:
        api_id = _known_api(client, asked)
        client.apis.add(api_id)
        _listen_to_apis(client)
        await client.answer(asked, "subscribed", api_id=api_id, status="success")
        return
    subscription = _subscription(client, asked, topic)
    if subscription not in client.mailbox.subscriptions:
        client.mailbox.subscriptions.append(subscription)
    await client.answer(asked, "subscribed", **_echo(asked), status="success")
    after = asked.get("after")
    if isinstance(after, int) and not isinstance(after, bool) and after >= 0:
        for news in await missed(client.service, client.mailbox, after):
            client.mailbox.put(news)


def _subscription(client: Client, asked: Message, topic: str) -> Subscription:
    names = [_text(asked, name) for name in ("market", "instrument", "timeframe")]
    return subscription_of(client.service, topic, *names, layers=_text(asked, "layers"), rows=asked.get("rows") is True)


def _listen_to_apis(client: Client) -> None:
    subscription = Subscription(Topic.apis, None, frozenset() if "*" in client.apis else frozenset(client.apis))
    others = [one for one in client.mailbox.subscriptions if one.topic is not Topic.apis]
    client.mailbox.subscriptions = [*others, subscription] if client.apis else others


def _echo(asked: Message) -> dict[str, Any]:
    return {
        name: asked[name] for name in ("topic", "market", "instrument", "timeframe", "rows", "layers") if name in asked
    }


async def _subscribe_all(client: Client, asked: Message) -> None:
    client.apis.add("*")
    client.mailbox.subscriptions = [Subscription(topic) for topic in Topic]
    await client.answer(asked, "subscribed", api_id="*", status="success")


async def _unsubscribe(client: Client, asked: Message) -> None:
    topic = _text(asked, "topic")
    if topic is not None:
        subscription = _subscription(client, asked, topic)
        kept = [one for one in client.mailbox.subscriptions if one != subscription]
        client.mailbox.subscriptions = kept
        await client.answer(asked, "unsubscribed", **_echo(asked), status="success")
        return
    api_id = _text(asked, "api_id", needed=True)
    if api_id == "*":
        client.apis.clear()
        client.mailbox.subscriptions = []
    else:
        client.apis.discard(str(api_id))
        _listen_to_apis(client)
    await client.answer(asked, "unsubscribed", api_id=api_id, status="success")


async def _get_data(client: Client, asked: Message) -> None:
    api_id = _known_api(client, asked)
    newest = await client.service.snapshots.newest(api_id)
    await client.answer(asked, "data_response", api_id=api_id, data=newest.get(api_id))


async def _get_all_data(client: Client, asked: Message) -> None:
    await client.answer(asked, "data_response", data=dict(await client.service.snapshots.newest()))


async def _get_schedule(client: Client, asked: Message) -> None:
    await client.answer(asked, "schedule_response", schedules=dict(await client.service.snapshots.schedules()))


async def _update_schedule(client: Client, asked: Message) -> None:
    _require_full(client, asked)
    api_id = _known_api(client, asked)
    interval, enabled = asked.get("interval"), asked.get("enabled")
    if interval is not None and not (
        isinstance(interval, int)
        and not isinstance(interval, bool)
        and SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL
    ):
        raise Wrong(
            "invalid-field", f"interval: found {interval!r}; allowed: {SHORTEST_INTERVAL} to {LONGEST_INTERVAL}"
        )
    if enabled is not None and not isinstance(enabled, bool):
        raise Wrong("invalid-field", f"enabled: found {enabled!r}; allowed: true or false")
    schedule = await client.service.snapshots.reschedule(api_id, interval, enabled)
    client.service.hub.publish(
        News(Topic.schedules, ("schedule", api_id), {"type": "schedule_update", "schedule": schedule})
    )
    await client.answer(asked, "schedule_updated", api_id=api_id, status="success")


async def _force_update(client: Client, asked: Message) -> None:
    _require_full(client, asked)
    api_id = _known_api(client, asked)
    await client.answer(asked, "update_result", api_id=api_id, status=await client.service.snapshots.force(api_id))


async def _ping(client: Client, asked: Message) -> None:
    await client.answer(asked, "pong", timestamp=iso_utc(client.service.now()))


async def _auth(client: Client, asked: Message) -> None:
    await client.answer(asked, "authenticated", role=client.role.value if client.role else None)


HANDLERS: Mapping[str, Handler] = {
    "auth": _auth,
    "subscribe": _subscribe,
    "subscribe_all": _subscribe_all,
    "unsubscribe": _unsubscribe,
    "get_data": _get_data,
    "get_all_data": _get_all_data,
    "get_schedule": _get_schedule,
    "update_schedule": _update_schedule,
    "force_update": _force_update,
    "ping": _ping,
}
