"""Answers made of bytes: entity tags and 304, dates, gzip, and the encoded answers that are kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property, partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from refresh_pipeline.api.encoding import PACKED_FROM, matches, packed, tag_of, takes_gzip

JSON = "application/json"
VARY = {"Vary": "Accept, Accept-Encoding, Origin"}
# Bytes of encoded answers that are kept, and what each takes besides its content: key, version, headers.
MOST_KEPT, KEPT_BESIDE = 64 * 1024 * 1024, 2048
# Bytes from which packing leaves the event loop: some 5 ms.
PACKED_ASIDE = 256 * 1024
RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Body:
    """The bytes of an answer with the tag that stands for them, and the headers of that answer."""

    content: bytes
    media_type: str
    tag: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def raw_headers(self) -> RawHeaders:
        """The headers of a 200 as they are sent: made once, though the answer is sent many times."""
        return Response(self.content, 200, self._headers, self.media_type).raw_headers

    @cached_property
    def unchanged_headers(self) -> RawHeaders:
        """The same of a 304."""
        return Response(None, 304, self._headers).raw_headers

    @property
    def packed_tag(self) -> str:
        """The tag of the packed bytes: they are another representation, and a strong tag stands for one."""
        return f'{self.tag[:-1]}-gzip"'

    @property
    def packed(self) -> "Body":
        """The same in gzip."""
        headers = {**self.headers, "Content-Encoding": "gzip"}
        return Body(packed(self.content), self.media_type, self.packed_tag, headers)

    @property
    def _headers(self) -> dict[str, str]:
        return {"ETag": self.tag, "Cache-Control": "no-cache", **VARY, **self.headers}


class Prepared(Response):
    """A body, or 304 where the client has it; its headers are those that the body keeps."""

    def __init__(self, body: Body, *, is_known: bool) -> None:
        self.status_code, self.body = (304, b"") if is_known else (200, body.content)
        # A copy: whoever passes it on may add headers.
        self.raw_headers = list(body.unchanged_headers if is_known else body.raw_headers)
        self.background = None


@dataclass(slots=True)
class AnswerCache:
    """Encoded answers by their question, each with the version that it is of; the least recently asked go first."""

    most: int = MOST_KEPT
    bytes: int = 0
    _kept: OrderedDict[Hashable, tuple[Hashable, Body]] = field(default_factory=OrderedDict)
    _begun: "dict[tuple[Hashable, Hashable], asyncio.Task[Body]]" = field(default_factory=dict)

    def get(self, question: Hashable, version: Hashable) -> Body | None:
        """The answer to a question at a version; None where it is not kept."""
        kept = self._kept.get(question)
        if kept is None or kept[0] != version:
            return None
        self._kept.move_to_end(question)
        return kept[1]

    def put(self, question: Hashable, version: Hashable, body: Body) -> None:
        """Keep an answer, in place of the one of an older version."""
        if (old := self._kept.pop(question, None)) is not None:
            self.bytes -= len(old[1].content) + KEPT_BESIDE
        self._kept[question] = (version, body)
        self.bytes += len(body.content) + KEPT_BESIDE
        while self.bytes > self.most:
            _, (_, oldest) = self._kept.popitem(last=False)
            self.bytes -= len(oldest.content) + KEPT_BESIDE

    async def of(self, question: Hashable, version: Hashable, make: Callable[[], Awaitable[Body]]) -> Body:
        """The kept answer, or a new one, which is made once however many ask for it meanwhile.

        Raises:
            Exception: what `make` raises, for everybody who waits.
        """
        if (kept := self.get(question, version)) is not None:
            return kept
        begun = self._begun.get((question, version))
        if begun is None:
            begun = asyncio.ensure_future(self._made(question, version, make))
            self._begun[question, version] = begun
            begun.add_done_callback(partial(self._ended, (question, version)))
        # Whoever goes takes nothing from the others.
        return await asyncio.shield(begun)

    async def given(
        self, question: Hashable, version: Hashable, body: Body, headers: Mapping[str, str], *, may_pack: bool = True
    ) -> Response:
        """A kept answer, packed where the client takes gzip, which is done once, or 304 where the client has it."""
        is_packed, known = may_pack and is_to_pack(body, headers), headers.get("if-none-match")
        if known is not None and matches(known, body.packed_tag if is_packed else body.tag):
            return not_modified(body, is_packed=is_packed)
        # The tag tells answers apart of which no version does.
        return Prepared(await self._packed(question, (version, body.tag), body) if is_packed else body, is_known=False)

    async def _packed(self, question: Hashable, version: Hashable, body: Body) -> Body:
        async def pack() -> Body:
            if len(body.content) < PACKED_ASIDE:
                return body.packed
            return await asyncio.to_thread(lambda: body.packed)

        return await self.of((question, "gzip"), version, pack)

    async def _made(self, question: Hashable, version: Hashable, make: Callable[[], Awaitable[Body]]) -> Body:
        body = await make()
        self.put(question, version, body)
        return body

    def _ended(self, key: tuple[Hashable, Hashable], begun: "asyncio.Task[Body]") -> None:
        self._begun.pop(key, None)
        # Everybody may have gone: a fault that nobody fetched is no news of its own.
        if not begun.cancelled():
            begun.exception()


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer made of bytes: FastAPI would take hundreds of times longer over an object."""
    return Response(dumps(body), status, dict(headers or {}), JSON)


def tagged_json(request: Request, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    """JSON with an entity tag of its content: 304 where the client has it."""
    content = dumps(body)
    return answer(request, Body(content, JSON, tag_of(content), headers or {}))


def dumps(body: Any) -> bytes:
    """JSON, with numpy's arrays and numbers; NaN is null."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def answer(request: Request, body: Body, *, may_pack: bool = True) -> Response:
    """The body, packed where the client takes gzip, or 304 where the client has it."""
    known = request.headers.get("if-none-match")
    is_packed = may_pack and is_to_pack(body, request.headers)
    if known is not None and matches(known, body.packed_tag if is_packed else body.tag):
        return not_modified(body, is_packed=is_packed)
    return Prepared(body.packed if is_packed else body, is_known=False)


def is_to_pack(body: Body, headers: Mapping[str, str]) -> bool:
    """Whether an answer to a request with these headers is worth packing, and the client takes gzip."""
    return len(body.content) >= PACKED_FROM and takes_gzip(headers.get("accept-encoding", ""))


def not_modified(body: Body, *, is_packed: bool) -> Response:
    """The answer to a client that has these bytes, as they are or packed."""
    if not is_packed:
        return Prepared(body, is_known=True)
    headers = {**body.headers, "Content-Encoding": "gzip"}
    return Prepared(Body(b"", body.media_type, body.packed_tag, headers), is_known=True)


def http_date(moment: datetime) -> str:
    """An instant as headers have it.

    >>> http_date(datetime(2026, 1, 31, 12, tzinfo=UTC))
    'Sat, 31 Jan 2026 12:00:00 GMT'
    """
    return format_datetime(moment.astimezone(UTC), usegmt=True)
