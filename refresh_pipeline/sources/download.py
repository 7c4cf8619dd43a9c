"""Reads a published file from a local path or an address. Parsing is the caller's part."""

import asyncio
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx

from refresh_pipeline.sources import PermanentError
from refresh_pipeline.sources.http_client import Client, RetryPolicy, by_status
from refresh_pipeline.sources.rate_limits import SharedLimit

# The largest that is asked for has some thirty megabytes.
PATIENCE = RetryPolicy(attempts=4, answer=300.0)


def text_of(place: str, limits_dir: Path, retry_policy: RetryPolicy = PATIENCE) -> str:
    """The text of a file, given its path or an http(s) address.

    Raises:
        OSError: there is no such file.
        SourceError: the address does not give it.
    """
    if not place.startswith(("http://", "https://")):
        return _decoded(Path(place).expanduser().read_bytes(), place)
    return asyncio.run(_downloaded(place, limits_dir, retry_policy))


async def _downloaded(address: str, limits_dir: Path, retry_policy: RetryPolicy) -> str:
    parts = urlsplit(address)
    limit = SharedLimit(limits_dir, f"download-{parts.netloc}", 1, 1.0)
    async with Client(f"{parts.scheme}://{parts.netloc}", limit, retry_policy) as client:
        content = await client.get(parts.path or "/", dict(parse_qsl(parts.query)), 1, _content)
    return _decoded(content, f"{parts.netloc}{parts.path}")


def _content(response: httpx.Response) -> bytes:
    if error := by_status(response):
        raise error
    return response.content


def _decoded(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PermanentError(f"{place}: expected text in UTF-8, found something else") from None
