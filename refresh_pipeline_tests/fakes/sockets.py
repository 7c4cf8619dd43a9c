"""What venues that stream have in common: a clock of their own, and connections that are cut or closed."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from aiohttp import WSCloseCode, web


class Sockets:
    """The part of a venue that holds WebSockets; the venue sets the clock, and runs the loop."""

    _clock: Callable[[], datetime]
    _loop: asyncio.AbstractEventLoop
    # With what each of them is subscribed to.
    _sockets: dict[web.WebSocketResponse, Any]

    @property
    def now(self) -> datetime:
        """The clock."""
        return self._clock()

    @now.setter
    def now(self, value: datetime) -> None:
        """The clock alone tells."""

    def cut(self) -> None:
        """Drop every connection, without a closing handshake."""
        self._loop.call_soon_threadsafe(self._drop)

    def shut_down(self) -> None:
        """Close every connection as a server does that is restarted."""
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()

    def _drop(self) -> None:
        for socket in list(self._sockets):
            if socket._req is not None and socket._req.transport is not None:
                socket._req.transport.abort()

    async def _shut_down(self) -> None:
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.SERVICE_RESTART)
