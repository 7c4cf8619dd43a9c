"""Azure's blob storage in miniature: a real HTTP server on loopback that keeps one container in memory.

Its ETags are no hashes of the content, as the real ones.
"""

from xml.sax.saxutils import escape

from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import LoopbackServer
from refresh_pipeline_tests.fakes.s3 import xml

CONTAINER = "candles"
ACCOUNT = "fakeaccount"
# Base64, as Azure's keys are.
ACCOUNT_KEY = "c2VjcmV0LWtleQ=="


class FakeAzure(LoopbackServer):
    """`blobs` maps names to contents; each upload counts the ETag on."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.Response:
        container, _, name = request.path.lstrip("/").partition("/")
        if not request.headers.get("Authorization", "").startswith(f"SharedKey {ACCOUNT}:"):
            return xml("<Error><Code>AuthenticationFailed</Code></Error>", 403)
        if container != CONTAINER:
            return xml("<Error><Code>ContainerNotFound</Code></Error>", 404)
        if request.method == "GET":
            return self._listing(request.query.get("prefix", ""))
        self.blobs[name] = await request.read()
        self.etags[name] = f"0x8D{len(self.asked):04}"
        return web.Response(status=201, headers={"ETag": f'"{self.etags[name]}"'})

    def _listing(self, prefix: str) -> web.Response:
        entries = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>Mon, 01 Jun 2026 00:00:00 GMT</Last-Modified>"
            f"<Content-Length>{len(blob)}</Content-Length><Content-Type>text/csv</Content-Type>"
            f"<Etag>{self.etags[name]}</Etag></Properties></Blob>"
            for name, blob in sorted(self.blobs.items())
            if name.startswith(prefix)
        )
        return xml(f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker/></EnumerationResults>")
