"""GET /events: Server-Sent Events, which a browser resumes by itself."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from refresh_pipeline.api.addressing import find_market, instruments_called, parse_timeframe
from refresh_pipeline.api.news import Mailbox, News, Subscription, Topic
from refresh_pipeline.api.newsroom import LAYERS, all_news
from refresh_pipeline.api.parameters import MarketParameter, comma_list
from refresh_pipeline.api.problems import invalid_parameter
from refresh_pipeline.api.reading import busy
from refresh_pipeline.api.service import Service, service_of
from refresh_pipeline.warehouse import versions

router = APIRouter(prefix="/api/v1", tags=["events"])

SECONDS_BETWEEN_COMMENTS = 15.0
RETRY = b"retry: 2000\n\n"
MOST_STREAMS = 200
DEFAULT_TOPICS = "candles,runs,alerts,schedules,apis"


@router.get("/events")
async def events(
    request: Request,
    *,
    topics: Annotated[str, Query(max_length=200, description="A comma list of topics.")] = DEFAULT_TOPICS,
    market: MarketParameter = None,
    instrument: Annotated[str | None, Query(description="Only this instrument, in any spelling.")] = None,
    timeframe: Annotated[str | None, Query(description="Only this timeframe, by any name.")] = None,
    rows: Annotated[bool, Query(description="Whether messages hold the changed candles.")] = False,
    layers: Annotated[str | None, Query(max_length=100, description="Only these layers: a comma list.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=100, description="The version to resume after.")] = None,
) -> Response:
    """News as they come: candles, runs, alerts, schedules."""
    service = service_of(request)
    if service.listeners.total() >= MOST_STREAMS:
        raise busy(f"{MOST_STREAMS} streams are open")
    mailbox = Mailbox()
    mailbox.subscriptions = [
        subscription_of(service, topic, market, instrument, timeframe, layers=layers, rows=rows)
        for topic in comma_list(topics)
    ]
    after = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else None
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(service, mailbox, after), 200, headers, "text/event-stream")


def subscription_of(
    service: Service,
    topic: str,
    market: str | None,
    instrument: str | None,
    timeframe: str | None,
    *,
    layers: str | None = None,
    rows: bool = False,
) -> Subscription:
    """A subscription by the names that a client gives.

    Raises:
        ProblemError: a name is unknown.
    """
    if topic not in list(Topic):
        raise invalid_parameter("topics", f"allowed: {', '.join(Topic)}", topic)
    markets = [find_market(service.markets, market)] if market else service.markets
    names = frozenset(name for _, name in instruments_called(markets, instrument)) if instrument else frozenset()
    parsed = parse_timeframe(timeframe).value if timeframe else None
    named = frozenset(comma_list(layers))
    if unknown := named - set(LAYERS.values()):
        raise invalid_parameter("layers", f"allowed: {', '.join(LAYERS.values())}", sorted(unknown)[0])
    return Subscription(Topic(topic), market, names, parsed, rows, named)


async def _stream(service: Service, mailbox: Mailbox, after: int | None) -> AsyncIterator[bytes]:
    leave = service.hub.join(mailbox)
    service.listeners["sse"] += 1
    try:
        yield RETRY
        if after is not None:
            for news in await missed(service, mailbox, after):
                yield _event(news)
        while (message := await mailbox.next(SECONDS_BETWEEN_COMMENTS)) or not mailbox.closed:
            yield b": still here\n\n" if message is None else _event(message)
    finally:
        leave()
        service.listeners["sse"] -= 1


async def missed(service: Service, mailbox: Mailbox, after: int) -> list[News]:
    """The messages of changes after a version."""
    if after == service.feed.version:
        return []
    read = await service.reader.ask(lambda connection: versions.changes(connection, after))
    return list(all_news(service, read, mailbox.subscriptions))


def _event(message: bytes | News) -> bytes:
    if isinstance(message, bytes):
        return b"event: lagging\ndata: " + message + b"\n\n"
    name = str(message.body["type"]).encode()
    number = b"id: %d\n" % message.version if message.version else b""
    return b"event: " + name + b"\n" + number + b"data: " + message.encoded + b"\n\n"
