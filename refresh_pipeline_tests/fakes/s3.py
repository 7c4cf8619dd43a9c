"""S3-compatible storage in miniature: a real HTTP server on the loopback that keeps one bucket in memory.

It answers what the pipeline asks (listings with paging, uploads whole and in pieces) and checks every signature by the
documented rules (Signature Version 4), written down a second time.
"""

import hashlib
import hmac
import re
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

from aiohttp import web

from refresh_pipeline_tests.fakes.http_server import Fault, LoopbackServer

BUCKET = "candles"
ACCESS_KEY_ID = "fake-key-id"
SECRET_ACCESS_KEY = "fake-secret-key"


class FakeS3(LoopbackServer):
    """`objects` maps keys to contents; `damages` lets what arrives lose its last byte; `page` is a listing's length."""

    def __init__(self, checks_signatures: bool = True) -> None:
        """With `checks_signatures` off it does for Google's storage, whose XML is the same."""
        super().__init__()
        self.checks_signatures = checks_signatures
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.damages = False
        self.page = 1000
        self._pieces: dict[str, dict[int, bytes]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.checks_signatures and not _is_signed(request, body):
            return error(403, "SignatureDoesNotMatch", "The request signature does not match")
        bucket, _, key = unquote(request.path).lstrip("/").partition("/")
        if bucket != BUCKET:
            return error(404, "NoSuchBucket", "The specified bucket does not exist")
        if request.method == "GET" and not key:
            return self._listing(request)
        if request.method == "POST":
            return self._pieces_begun(key) if "uploads" in request.query else self._pieces_joined(request, key)
        if "partNumber" in request.query:
            pieces = self._pieces[request.query["uploadId"]]
            pieces[int(request.query["partNumber"])] = body
            return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        return self._put(key, body, hashlib.md5(body).hexdigest())

    def put(self, key: str, body: bytes) -> None:
        """What somebody else put there."""
        self._put(key, body, hashlib.md5(body).hexdigest())

    def _put(self, key: str, body: bytes, etag: str) -> web.Response:
        self.objects[key] = body[:-1] if self.damages else body
        self.etags[key] = hashlib.md5(self.objects[key]).hexdigest() if self.damages else etag
        return web.Response(headers={"ETag": f'"{self.etags[key]}"'})

    def _pieces_begun(self, key: str) -> web.Response:
        upload = f"upload-{len(self._pieces)}"
        self._pieces[upload] = {}
        names = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
        return xml(f"<InitiateMultipartUploadResult>{names}</InitiateMultipartUploadResult>")

    def _pieces_joined(self, request: web.Request, key: str) -> web.Response:
        pieces = [piece for _, piece in sorted(self._pieces[request.query["uploadId"]].items())]
        digests = b"".join(hashlib.md5(piece).digest() for piece in pieces)
        etag = f"{hashlib.md5(digests).hexdigest()}-{len(pieces)}"
        self._put(key, b"".join(pieces), etag)
        names = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key><ETag>&quot;{etag}&quot;</ETag>"
        return xml(f"<CompleteMultipartUploadResult>{names}</CompleteMultipartUploadResult>")

    def _listing(self, request: web.Request) -> web.Response:
        prefix, after = request.query.get("prefix", ""), request.query.get("continuation-token", "")
        keys = [key for key in sorted(self.objects) if key.startswith(prefix) and key > after]
        shown, more = keys[: self.page], len(keys) > self.page
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{self.etags[key]}&quot;</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in shown
        )
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        return xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}"
            "</ListBucketResult>"
        )


class FakeMetadataServer(LoopbackServer):
    """Amazon's metadata server in miniature: the role of this machine and the keys that it lends."""

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.endswith("/api/token"):
            return web.Response(text="fake-token")
        if request.path.endswith("/security-credentials/"):
            return web.Response(text="refresh-role")
        keys = {"AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET_ACCESS_KEY, "Token": "fake-session"}
        times = {"Expiration": "2100-01-01T00:00:00Z", "LastUpdated": "2026-01-01T00:00:00Z"}
        return web.json_response({"Code": "Success", "Type": "AWS-HMAC", **keys, **times})


def refused(status: int, code: str, message: str = "no") -> Fault:
    """An error as S3 words it, in place of the right answer."""
    return Fault(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>")


def error(status: int, code: str, message: str) -> web.Response:
    """An error as S3 words it."""
    return xml(f"<Error><Code>{code}</Code><Message>{message}</Message></Error>", status)


def xml(text: str, status: int = 200) -> web.Response:
    """A document."""
    return web.Response(status=status, text=f'<?xml version="1.0"?>{text}', content_type="application/xml")


def _is_signed(request: web.Request, body: bytes) -> bool:
    found = re.match(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d+)/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)",
        request.headers.get("Authorization", ""),
    )
    if not found or found[1] != ACCESS_KEY_ID:
        return False
    _, day, region, names, signature = found.groups()
    payload = request.headers["x-amz-content-sha256"]
    if payload != hashlib.sha256(body).hexdigest():
        return False
    query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(request.query.items()))
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names.split(";"))
    canonical = "\n".join([request.method, request.rel_url.raw_path, query, headers, names, payload])
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"AWS4{SECRET_ACCESS_KEY}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature)
