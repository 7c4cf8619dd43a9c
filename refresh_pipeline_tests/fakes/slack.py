"""A Slack webhook in miniature: over real HTTP on loopback, 200 and `ok` in plain text, refusals in one word."""

import json
from typing import Any

from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer

PATH = "/services/T00000000/B00000000/abcdefghijklmnopqrstuvwx"
NO_SERVICE = Fault(404, "no_service")
ARCHIVED = Fault(410, "channel_is_archived")
TOO_MANY = Fault(429, "rate_limited", headers={"Retry-After": "120"})
ROLLUP_ERROR = Fault(500, "rollup_error")
SOMEBODY_ELSE = Fault(403, "<html><body>the hotel's network</body></html>")
DROPPED = Fault(drops=True)


class FakeSlack(LoopbackServer):
    """The webhook. `texts` are the messages that arrived."""

    @property
    def url(self) -> str:
        """The secret address."""
        return f"{self.base_url}{PATH}"

    @property
    def texts(self) -> list[str]:
        """What arrived, in order."""
        return [each.said["text"] for each in self.asked if each.status == 200]

    async def answer(self, request: web.Request) -> web.Response:
        """The word that Slack answers a message with, or a complaint."""
        try:
            said: Any = json.loads(await request.text())
        except ValueError:
            said = None
        if request.method != "POST" or not isinstance(said, dict) or not said.get("text"):
            return web.Response(status=400, text="invalid_payload")
        return web.Response(text="ok") if request.path == PATH else web.Response(status=404, text="no_service")
