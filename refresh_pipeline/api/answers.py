"""Answers made of bytes: entity tags and 304, dates, links, gzip."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from refresh_pipeline.api.encoding import PACKED_FROM, matches, packed, tag_of, takes_gzip

JSON = "application/json"
VARY = {"Vary": "Accept, Accept-Encoding, Origin"}


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer with the tag that stands for them, and the headers of that answer."""

    content: bytes
    media_type: str
    tag: str
    headers: Mapping[str, str] = field(default_factory=dict)


# Bytes of encoded answers that are kept.
MOST_KEPT = 64 * 1024 * 1024


@dataclass(slots=True)
class AnswerCache:
    """Encoded answers by their question, each with the version that it is of; the least recently asked go first."""

    most: int = MOST_KEPT
    bytes: int = 0
    _kept: OrderedDict[Hashable, tuple[Hashable, Body]] = field(default_factory=OrderedDict)

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
            self.bytes -= len(old[1].content)
        self._kept[question] = (version, body)
        self.bytes += len(body.content)
        while self.bytes > self.most:
            _, (_, oldest) = self._kept.popitem(last=False)
            self.bytes -= len(oldest.content)


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
    headers = {"ETag": body.tag, "Cache-Control": "no-cache", **VARY, **body.headers}
    known = request.headers.get("if-none-match")
    content = body.content
    if may_pack and len(content) >= PACKED_FROM and takes_gzip(request.headers.get("accept-encoding", "")):
        # Packed and plain bytes are two representations, and a strong tag stands for one.
        headers |= {"Content-Encoding": "gzip", "ETag": f'{body.tag[:-1]}-gzip"'}
        if known is not None and matches(known, headers["ETag"]):
            return Response(None, 304, headers)
        return Response(packed(content), 200, headers, body.media_type)
    if known is not None and matches(known, body.tag):
        return Response(None, 304, headers)
    return Response(content, 200, headers, body.media_type)


def http_date(moment: datetime) -> str:
    """An instant as headers have it.

    >>> http_date(datetime(2026, 1, 31, 12, tzinfo=UTC))
    'Sat, 31 Jan 2026 12:00:00 GMT'
    """
    return format_datetime(moment.astimezone(UTC), usegmt=True)
