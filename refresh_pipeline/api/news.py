"""News and who receives it: messages, subscriptions, and a mailbox of bounded size for each client.

A client that reads slowly holds up nobody: newer news of a series replaces older in its mailbox, and what does not fit
is counted and told as `lagging`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

# Messages that wait for one client.
MOST_WAITING = 1000
SeriesNews = Mapping[tuple[str, str], Mapping[str, Any]]


class Topic(StrEnum):
    """What news is about."""

    candles = "candles"
    runs = "runs"
    alerts = "alerts"
    schedules = "schedules"
    apis = "apis"
    status = "status"


@dataclass(slots=True)
class News:
    """One message: what it is about, and what identifies it among those that wait.

    Candles come by market and timeframe: `series` holds the news of each instrument and layer, oldest version first.
    """

    topic: Topic
    key: Hashable
    body: Mapping[str, Any]
    series: SeriesNews = field(default_factory=dict)
    version: int = 0
    # Layers that only those receive who name them: 200 columns of 487 series are megabytes.
    on_request: frozenset[str] = frozenset()
    _encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The message as JSON, encoded once for all clients."""
        if self._encoded is None:
            series = {"series": list(self.series.values())} if self.topic is Topic.candles else {}
            self._encoded = orjson.dumps({**self.body, **series}, option=orjson.OPT_SERIALIZE_NUMPY)
        return self._encoded

    def followed_by(self, newer: "News") -> "News":
        """Both as one message: of each series the newer news, from the older's first change on."""
        if self.topic is not Topic.candles:
            return newer
        joined = dict(self.series)
        for key, one in newer.series.items():
            older = joined.pop(key, None)
            joined[key] = one if older is None else _from_the_first(older, one)
        return News(newer.topic, newer.key, newer.body, joined, newer.version)

    def narrowed(
        self, instruments: frozenset[str], layers: frozenset[str] = frozenset(), *, with_rows: bool
    ) -> "News | None":
        """The same for some instruments and layers alone, all of them where none is named; None where nothing is left.

        Rows are left out where nobody asked.
        """
        if self.topic is not Topic.candles:
            return self
        kept = {
            (instrument, layer): one
            for (instrument, layer), one in self.series.items()
            if (not instruments or instrument in instruments)
            and (layer in layers if layers else layer not in self.on_request)
        }
        if not kept:
            return None
        if not with_rows:
            kept = {key: {name: value for name, value in one.items() if name != "rows"} for key, one in kept.items()}
        return News(self.topic, self.key, self.body, kept, self.version)


def _from_the_first(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Mapping[str, Any]:
    since = [one["since"] for one in (older, newer)]
    first = None if None in since else min(since)
    merged = {**newer, "since": first}
    if "rows" in newer:
        rows = {row["open_time"]: row for row in [*older.get("rows", ()), *newer["rows"]]}
        merged["rows"] = [rows[time] for time in sorted(rows)]
    return merged


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client wants to hear: a topic, and of candles a market, instruments and a timeframe, or all.

    Of APIs, `instruments` are their ids.
    """

    topic: Topic
    market: str | None = None
    instruments: frozenset[str] = frozenset()
    timeframe: str | None = None
    rows: bool = False
    layers: frozenset[str] = frozenset()

    def wanted(self, news: News) -> News | None:
        """The part of a message that is wanted."""
        if news.topic is not self.topic:
            return None
        if self.market is not None and news.body.get("market") != self.market:
            return None
        if self.topic is Topic.apis:
            return news if not self.instruments or news.body.get("api_id") in self.instruments else None
        if self.topic is not Topic.candles:
            return news
        if self.timeframe is not None and news.body["timeframe"] != self.timeframe:
            return None
        if not self.instruments and not self.layers and self.rows and not news.on_request:
            return news
        return news.narrowed(self.instruments, self.layers, with_rows=self.rows)


class Mailbox:
    """The messages that wait for one client."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self.subscriptions: list[Subscription] = []
        self.dropped = 0
        # Nothing comes any more: the server ends.
        self.closed = False
        self._most, self._waiting = most, OrderedDict[Hashable, News]()
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, news: News) -> None:
        """Take a message, as far as one of the subscriptions wants it."""
        parts = [part for one in self.subscriptions if (part := one.wanted(news)) is not None]
        if parts:
            self.put(parts[0] if len(parts) == 1 else _union(parts))

    def put(self, news: News) -> None:
        """Take a message whole; it joins one about the same, and where there are too many the oldest is dropped."""
        older = self._waiting.pop(news.key, None)
        self._waiting[news.key] = news if older is None else older.followed_by(news)
        if len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
            self.dropped += 1
        self._arrived.set()

    def close(self) -> None:
        """Let who waits for a message go."""
        self.closed = True
        self._arrived.set()

    async def next(self, seconds: float) -> bytes | News | None:
        """The next message; `lagging` first where some were dropped; None after so many seconds, or once closed."""
        if not self._waiting and not self.dropped and not self.closed:
            self._arrived.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        if not self._waiting and not self.dropped:
            return None
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            return orjson.dumps({"type": "lagging", "dropped": dropped})
        return self._waiting.popitem(last=False)[1]


def _union(parts: Iterable[News]) -> News:
    listed = list(parts)
    joined: dict[tuple[str, str], Mapping[str, Any]] = {}
    for part in listed:
        for key, one in part.series.items():
            joined[key] = {**joined.get(key, {}), **one}
    first = listed[0]
    return News(first.topic, first.key, first.body, joined, first.version)


class Hub:
    """Everybody who listens."""

    def __init__(self) -> None:
        self._mailboxes: set[Mailbox] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._mailboxes)

    def join(self, mailbox: Mailbox) -> Callable[[], None]:
        """Send what is published from now on; gives what ends that."""
        self._mailboxes.add(mailbox)
        if self._closed:
            mailbox.close()
        return lambda: self._mailboxes.discard(mailbox)

    def close(self) -> None:
        """Let everybody go: the server ends."""
        self._closed = True
        for mailbox in self._mailboxes:
            mailbox.close()

    def publish(self, news: News) -> None:
        """Put a message into every mailbox that wants it."""
        for mailbox in self._mailboxes:
            mailbox.offer(news)

    def layers(self) -> set[str]:
        """The layers of candles that somebody has named."""
        return {layer for mailbox in self._mailboxes for one in mailbox.subscriptions for layer in one.layers}

    def has_listeners(self, topic: Topic) -> bool:
        """Whether anybody wants to hear of a topic."""
        return any(one.topic is topic for mailbox in self._mailboxes for one in mailbox.subscriptions)
