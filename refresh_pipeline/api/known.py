"""Requests that were asked before: they are answered without being routed and validated again.

Routing, validation and the search for the series take FastAPI ten times as long as the answer that is kept. What a
request asks for follows from its path, its query and Accept alone, so a question that was found once stands for all
that follow. What the answer holds is no part of this module.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from refresh_pipeline.api.guard import App, Receive, Scope, Send
from refresh_pipeline.api.problems import ProblemError, problem_response

if TYPE_CHECKING:
    from refresh_pipeline.api.service import Service

# Requests that are kept, and the longest of them: four millions of bytes of keys at most.
MOST_REQUESTS, LONGEST_REQUEST = 4096, 1024
Key = tuple[str, bytes, bytes]

log = logging.getLogger("refresh_pipeline.api")


class Question(Protocol):
    """What a request asks for, parsed and validated."""

    async def answer(self, service: "Service", headers: Mapping[str, str]) -> Response:
        """The answer to a request with these headers.

        Raises:
            ProblemError: it cannot be answered now.
        """
        ...


@dataclass(slots=True)
class KnownRequests:
    """The questions of requests; those that were asked least recently go first."""

    _kept: OrderedDict[Key, tuple[Question, Any]] = field(default_factory=OrderedDict)

    def get(self, scope: Scope) -> Question | None:
        """What a request asks for, where it was asked before; the scope gets the route that it had."""
        found = self._kept.get(key := _key(scope))
        if found is None:
            return None
        self._kept.move_to_end(key)
        question, scope["route"] = found
        return question

    def put(self, request: Request, question: Question) -> None:
        """Remember what a request asks for; not where the request is long."""
        path, query, accept = key = _key(request.scope)
        if len(path) + len(query) + len(accept) > LONGEST_REQUEST:
            return
        self._kept[key] = (question, request.scope.get("route"))
        if len(self._kept) > MOST_REQUESTS:
            self._kept.popitem(last=False)


def _key(scope: Scope) -> Key:
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return scope["path"], scope["query_string"], accept


class Shortcut:
    """Answers what was asked before, and hands all else on."""

    def __init__(self, app: App, service: "Service") -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        is_asking = scope["type"] == "http" and scope["method"] == "GET"
        question = self._service.known.get(scope) if is_asking else None
        response = None if question is None else await self._answer(question, scope)
        await (response or self._app)(scope, receive, send)

    async def _answer(self, question: Question, scope: Scope) -> Response | None:
        try:
            return await question.answer(self._service, Headers(scope=scope))
        except ProblemError as error:
            return problem_response(error, scope["path"])
        except Exception:
            # The routes meet it again, and answer it as they do every fault of ours.
            log.info("%s: a known question failed", scope["path"])
            return None
