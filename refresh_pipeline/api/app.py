"""The API: its routes by subject, and what stands around them.

From the outside: the guard decides who may ask, then faults of ours become a problem, then what was asked before takes
a shortcut, then the routes. Every handler gives a Response made of bytes; FastAPI is here for validation and for the
description in /openapi.json.
"""

import logging
import time
import uuid
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from refresh_pipeline.api import (
    binance,
    catalog,
    changes,
    control,
    data,
    events,
    files,
    operation,
    pages,
    payloads,
    pipeline,
    prometheus,
    runs,
    series,
    session,
    signals,
    sockets,
    status,
    tracker,
    tracker_files,
    udf,
)
from refresh_pipeline.api.description import describe
from refresh_pipeline.api.guard import App, Guard, Receive, Rules, Scope, Send
from refresh_pipeline.api.known import Shortcut
from refresh_pipeline.api.newsroom import Newsroom
from refresh_pipeline.api.problems import (
    PROBLEM_TYPE,
    Problem,
    ProblemError,
    problem_body,
    problem_response,
)
from refresh_pipeline.api.reading import busy
from refresh_pipeline.api.service import Service
from refresh_pipeline.warehouse.connection import WarehouseUnreadable

# Routes by subject, in the order in which they are tried.
ROUTERS = (
    *(operation.router, session.router, status.router, status.root, prometheus.router, catalog.router, series.router),
    *(changes.router, files.router, control.router, runs.router, data.router),
    *(events.router, sockets.router, pipeline.router),
    *(signals.router, payloads.router, udf.router, binance.router, tracker.router, tracker_files.router, pages.router),
)
LONGEST_BODY = 64 * 1024
EXPOSED = ["ETag", "Link", "X-Records", "X-Version", "Retry-After", "RateLimit", "RateLimit-Policy", "Location"]
DESCRIPTION = "Candles and what is computed from them, and the work that keeps them fresh."

log = logging.getLogger("refresh_pipeline.api")


def create_app(service: Service, rules: Rules) -> App:
    """The whole application of a service, behind the guard of these rules."""
    routes = FastAPI(
        title="Refresh Pipeline",
        version=operation.VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    for router in ROUTERS:
        routes.include_router(router)
    describe(routes)
    routes.add_exception_handler(HTTPException, _http_fault)
    routes.add_exception_handler(RequestValidationError, _invalid)
    routes.add_exception_handler(WarehouseUnreadable, _unreadable)
    routes.add_exception_handler(Exception, _internal)
    routes.state.service = service
    guard = Guard(_Shell(Shortcut(routes, service), service), rules, service.keys, lambda: service.now().timestamp())
    service.guard = guard
    return _with_cors(guard, rules)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await service.start()
    newsroom = Newsroom(service)
    newsroom.start()
    yield
    await newsroom.close()
    await service.close()


def _with_cors(app: App, rules: Rules) -> App:
    if not rules.origins:
        return app
    everyone = "*" in rules.origins
    return CORSMiddleware(
        app,  # pyright: ignore[reportArgumentType] (the same protocol under other names)
        allow_origins=["*"] if everyone else sorted(rules.origins),
        allow_credentials=not everyone,
        allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
        allow_headers=["X-API-Key", "Authorization", "Content-Type", "If-None-Match", "Idempotency-Key"],
        expose_headers=EXPOSED,
    )


class _Shell:
    """What surrounds the routes: HEAD as GET without a body, bodies of bounded length, the log, faults of ours."""

    def __init__(self, app: App, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, answered = time.monotonic(), _Answered(send)
        method, path = scope["method"], scope["path"]
        inner = {**scope, "method": "GET"} if method == "HEAD" else scope
        # Starlette raises a fault again after `_internal` has answered and logged it.
        with suppress(Exception):
            await self._app(inner, _bounded(scope, receive), answered)
        seconds = time.monotonic() - began
        log.info("%s %s %s %.0f ms", method, path, answered.status, 1000 * seconds)
        self._service.requests.count(getattr(inner.get("route"), "path", "none"), method, answered.status, seconds)


class _Answered:
    """Passes an answer on and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = {name.lower() for name, _ in message["headers"]}
            if b"cache-control" not in names:
                message = {**message, "headers": [*message["headers"], (b"cache-control", b"no-cache")]}
        await self._send(message)


def _bounded(scope: Scope, receive: Receive) -> Receive:
    stated = dict(scope["headers"]).get(b"content-length", b"0")
    too_large = stated.isdigit() and int(stated) > LONGEST_BODY
    length = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal length
        message = await receive()
        length += len(message.get("body", b""))
        if too_large or length > LONGEST_BODY:
            raise ProblemError(Problem.body_too_large, f"the body is above {LONGEST_BODY} bytes; send less")
        return message

    return bounded


async def _internal(request: Request, error: Exception) -> Response:
    number = uuid.uuid4().hex
    log.error("fault %s: %s %s", number, request.method, request.url.path, exc_info=error)
    fault = ProblemError(Problem.internal, "a fault of this program; its log has the id", id=number)
    return problem_response(fault, request.url.path)


async def _unreadable(request: Request, error: Exception) -> Response:
    log.warning("the API could not read the warehouse: %s", error)
    return problem_response(busy("the warehouse cannot be read; the log says why"), request.url.path)


async def _http_fault(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, ProblemError):
        return problem_response(error, path)
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        found = ProblemError(Problem.unknown_route, f"{path}: the API has no such path; see /openapi.json")
    elif error.status_code == 405:
        detail = f"{path}: found {request.method}; allowed: {headers.get('Allow', headers.get('allow', ''))}"
        found = ProblemError(Problem.method_not_allowed, detail, headers=headers)
    else:
        found = ProblemError(Problem.invalid_body, "the body is no JSON", errors=[])
    return problem_response(found, path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [_fault(fault) for fault in error.errors()]
    of_body = any(fault["loc"][:1] == ("body",) for fault in error.errors())
    problem = Problem.invalid_body if of_body else Problem.invalid_parameter
    detail = "; ".join(f"{fault['where']}: {fault['message']}" for fault in faults)
    return Response(
        problem_body(problem, detail, request.url.path, {"errors": faults}), problem.value.status, None, PROBLEM_TYPE
    )


def _fault(fault: dict[str, Any]) -> dict[str, Any]:
    where = ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0])
    received = fault.get("input")
    shown = received if isinstance(received, str | int | float) else None
    return {"where": where, "message": str(fault["msg"]), "received": shown}
