"""A real HTTP server on loopback for fakes of venues: it records what it was asked and can be told to misbehave.

What a venue answers when nothing is wrong is the part of its own fake, a subclass.
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

LARGEST_REQUEST = 64 * 1024 * 1024


@dataclass(frozen=True)
class Asked:
    """One request as it came in, and the status it got (0 where the connection was dropped)."""

    # Seconds of time.monotonic(): for politeness, not for dates.
    at: float
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    status: int
    # The client's port: requests that share one share a connection.
    connection: int
    # What a POST said as JSON.
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """An answer in place of the right one; with `drops`, half of it and then a closed connection.

    Without a status the right answer comes after all, `delay` seconds late.
    """

    status: int | None = None
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drops: bool = False


@dataclass
class _Planned:
    fault: Fault
    times: int
    path: str
    query: Mapping[str, str]

    def fits(self, request: web.Request, said: Mapping[str, Any]) -> bool:
        asked = {**request.query, **said}
        return self.times > 0 and self.path in request.path and self.query.items() <= asked.items()


class LoopbackServer:
    """`with LoopbackServer() as venue: ... venue.base_url ...`; subclasses say what `answer` is."""

    def __init__(self, port: int = 0) -> None:
        """A server on this port, or on any that is free."""
        self.asked: list[Asked] = []
        self.base_url = ""
        self._port = port
        self._planned: list[_Planned] = []

    async def answer(self, request: web.Request) -> web.Response:
        """The right answer."""
        raise NotImplementedError

    def fail(self, fault: Fault, times: int = 1, path: str = "", **query: str) -> None:
        """Let the next `times` requests go wrong whose path contains `path` and whose query or JSON has the rest."""
        self._planned.append(_Planned(fault, times, path, query))

    def heal(self) -> None:
        """Let nothing go wrong from now on."""
        self._planned.clear()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.base_url = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> str:
        app = web.Application(client_max_size=LARGEST_REQUEST)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _close(self) -> None:
        # Answers that are late on purpose would outlive the loop.
        answering = asyncio.all_tasks() - {asyncio.current_task()}
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        at = time.monotonic()
        said = await request.json() if request.content_type == "application/json" and request.can_read_body else {}
        fault = self._next_fault(request, said)
        if fault is not None:
            await asyncio.sleep(fault.delay)
        dropped = fault is not None and fault.drops
        if fault is None or fault.status is None:
            response = await self.answer(request)
        else:
            response = _response(fault)
        status = 0 if dropped else response.status
        connection = request.transport.get_extra_info("peername")[1] if request.transport else 0
        headers = dict(request.headers)
        self.asked.append(Asked(at, request.path, dict(request.query), headers, status, connection, said))
        return await _half_of(response, request) if dropped else response

    def _next_fault(self, request: web.Request, said: Mapping[str, Any]) -> Fault | None:
        for planned in self._planned:
            if planned.fits(request, said):
                planned.times -= 1
                return planned.fault
        return None


def _response(fault: Fault) -> web.Response:
    status = fault.status or 200
    if isinstance(fault.body, str):
        return web.Response(status=status, text=fault.body, content_type="text/html", headers=fault.headers)
    return web.json_response(fault.body, status=status, headers=fault.headers)


async def _half_of(response: web.Response, request: web.Request) -> web.StreamResponse:
    body = response.body if isinstance(response.body, bytes) else b""
    broken = web.StreamResponse(status=response.status, headers={"Content-Length": str(max(len(body), 2))})
    await broken.prepare(request)
    await broken.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.abort()
    return broken
