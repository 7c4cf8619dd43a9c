"""Uploads into a bucket of an object store (s3://, gs://, az://) over obstore.

Importing this module imports obstore, an extra; the registry does so only where a bucket is meant.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    InvalidPathError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import from_url

from refresh_pipeline.destinations import DestinationError, Outgoing, PermanentUploadError, TransientUploadError
from refresh_pipeline.destinations.endpoint_proxy import EndpointProxy
from refresh_pipeline.destinations.paths import WrongDestination, shown, split_url, under_root
from refresh_pipeline.destinations.uploading import AccessRefused, ListingRepeats, Unreachable, UploadingDestination
from refresh_pipeline.market.clear_text import ALLOWED, host_in_the_clear
from refresh_pipeline.market.destination_spec import ObjectStoreSpec
from refresh_pipeline.settings import cloud_addresses, system_proxy

# Longer files go in pieces of this size; obstore sends a piece that did not arrive again by itself.
PIECE_BYTES = 16 * 1024 * 1024
WORKERS = 8
# Attempts of obstore per request, which does not repeat an upload whose connection was dropped; ours come on top.
RETRIES = 2
LONGEST_RETRY = timedelta(seconds=30)
# The settings that each scheme knows, by the name of obstore's own.
CREDENTIALS: Mapping[str, Mapping[str, str]] = {
    "s3": {
        "AWS_ACCESS_KEY_ID": "access_key_id",
        "AWS_SECRET_ACCESS_KEY": "secret_access_key",
        "AWS_SESSION_TOKEN": "session_token",
    },
    "gs": {"GOOGLE_APPLICATION_CREDENTIALS": "application_credentials"},
    "az": {"AZURE_STORAGE_ACCOUNT_NAME": "account_name", "AZURE_STORAGE_ACCOUNT_KEY": "account_key"},
}
# Google's storage calls its endpoint otherwise.
ENDPOINT_NAMES = {"gs": "base_url"}
ADVICE = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role that may write there",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or give this machine's account the right to write there",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or give this machine an identity that may "
    "write there",
}
# Both must be set, or neither: obstore then asks the role of the machine.
AWS_PAIR = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class ObjectStoreDestination(UploadingDestination[Any]):
    """A folder in a bucket. No secret shows in its errors, logs and repr.

    Without keys in `credentials`, obstore's own chain finds them: environment, web identity, role of the container or
    machine.

    Args:
        url: `s3://bucket/folder`, `gs://bucket/folder` or `az://container/folder`.
        credentials: the set credentials, by the name of their environment variable.
        endpoint: the address of compatible storage, `https://...`; the cloud's own where it is empty.
        region: of an S3 bucket; AWS_REGION or us-east-1 where it is empty.
        insecure_http: whether keys may go to another machine over http://.
        timeout: seconds without an answer after which a request has failed.
        sleep: the function that waits between attempts.

    Raises:
        WrongDestination: half of a pair of keys is missing, keys would go over http:// to another machine, or obstore
                cannot open the URL.
    """

    # MD5 of a file sent whole; of a file sent in pieces, the MD5 of their MD5s and their number. The store's ETag.
    hash_name = "md5"
    attempts = 3
    client_errors = (BaseError,)
    # Seconds for the next page of a listing: above all attempts of one request.
    page_limit = 180.0

    def __init__(
        self,
        url: str,
        credentials: Mapping[str, str],
        *,
        endpoint: str = "",
        region: str = "",
        insecure_http: bool = False,
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._scheme = split_url(url).scheme
        names = CREDENTIALS[self._scheme]
        keys = {option: credentials[name] for name, option in names.items() if credentials.get(name)}
        # The account's name and the key file's path are no secrets, but belong in no message either.
        super().__init__(url.rstrip("/"), tuple(keys.values()), workers=WORKERS, sleep=sleep)
        missing = [name for name in AWS_PAIR if not credentials.get(name)]
        if self._scheme == "s3" and len(missing) == 1:
            raise WrongDestination(
                f"{shown(url)} needs {' and '.join(AWS_PAIR)}, or neither (the role of this machine counts then); "
                f"missing: {missing[0]}"
            )
        if keys and not insecure_http and (host := host_in_the_clear(endpoint)):
            raise WrongDestination(
                f"{shown(url)}: endpoint: found http:// to {host}, which shows keys and files to the network; "
                f"allowed: {ALLOWED}"
            )
        options = {ENDPOINT_NAMES.get(self._scheme, "endpoint"): endpoint, "region": region}
        config: Any = keys | {name: value for name, value in options.items() if value}
        self._proxy = _proxy_for(endpoint)
        client_options: Any = {
            "allow_http": endpoint.startswith("http://"),
            "timeout": timedelta(seconds=timeout),
        }
        if self._proxy:
            client_options["proxy_url"] = self._proxy.url
        try:
            self._store = from_url(
                self.url,
                config=config or None,
                client_options=client_options,
                retry_config={"max_retries": RETRIES, "retry_timeout": LONGEST_RETRY},
            )
        except BaseError as error:
            received = self._clean(error)
            raise WrongDestination(f"{shown(url)} cannot be opened: {received}; {ADVICE[self._scheme]}") from None

    @classmethod
    def from_spec(cls, spec: ObjectStoreSpec, credentials: Mapping[str, str]) -> "ObjectStoreDestination":
        """The folder in a bucket that a spec describes.

        Raises:
            WrongDestination: half of a pair of keys is missing, or obstore cannot open the URL.
        """
        url = spec.url or f"s3://{spec.bucket}/{quote(spec.prefix.strip('/'))}"
        return cls(url, credentials, endpoint=spec.endpoint, region=spec.region, insecure_http=spec.insecure_http)

    def _session(self) -> AbstractContextManager[Any]:
        return nullcontext(self._store)

    def _path(self, remote: str) -> str:
        return str(under_root(remote))

    def _listing(self, client: Any, folder: str) -> dict[str, str]:
        return asyncio.run(self._listed(client, folder))

    async def _listed(self, client: Any, folder: str) -> dict[str, str]:
        hashes: dict[str, str] = {}
        pages = aiter(obstore.list(client, prefix=folder or None))
        try:
            # obstore gathers files into pages of its own, so an endless row of empty answers gives no page at all.
            while page := await asyncio.wait_for(anext(pages, None), self.page_limit):
                known = len(hashes)
                hashes.update((meta["path"], _plain(meta["e_tag"])) for meta in page)
                if len(hashes) == known:
                    raise ListingRepeats(f"{self.url}: the listing repeats itself after {known} files")
        except TimeoutError:
            raise ListingRepeats(
                f"{self.url}: the listing brought no further file within {self.page_limit:.0f} s after "
                f"{len(hashes)} files; check the endpoint"
            ) from None
        return hashes

    def _hash_of(self, path: Path) -> str:
        return etag_of(path)

    def _send(self, client: Any, file: Outgoing, path: str, size: int, wanted: str) -> str:
        whole = size <= PIECE_BYTES
        content = file.path.read_bytes() if whole else file.path
        sent = obstore.put(client, path, content, use_multipart=not whole, chunk_size=PIECE_BYTES)
        arrived = _plain(sent["e_tag"])
        # An ETag is no MD5 on Azure, and on S3 with keys of its own; the signed request covered the content there.
        if re.fullmatch(r"[0-9a-f]{32}(-\d+)?", arrived) and arrived != wanted:
            raise TransientUploadError(
                f"{self.url}/{path}: arrived changed: wanted ETag {wanted}, received {arrived}; "
                "it changed on its way: try again"
            )
        return arrived

    def _clean(self, text: object) -> str:
        return super()._clean(str(text).partition("Debug source")[0])

    def _refusal(self, error: Exception, request: str) -> DestinationError:
        received = self._clean(error)
        if self._proxy and self._proxy.refused:
            hosts = ", ".join(sorted(self._proxy.refused))
            return AccessRefused(
                f"{request}: the endpoint sends requests on to {hosts}, which gets none: set endpoint to the address "
                "that serves the bucket itself"
            )
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or re.search(r"\b40[13] ", received):
            return AccessRefused(f"{request}: access refused: {ADVICE[self._scheme]}: {received}")
        if isinstance(error, NotFoundError) or "NoSuchBucket" in received:
            return AccessRefused(f"{request}: there is no such bucket: create it, or correct its name: {received}")
        if isinstance(error, InvalidPathError):
            return PermanentUploadError(f"{request}: the storage cannot hold such a name: {received}")
        if isinstance(error, GenericError):
            return _generic_refusal(request, received, ADVICE[self._scheme])
        return PermanentUploadError(f"{request}: refused: {received}")


def etag_of(path: Path) -> str:
    """The ETag of a file's content once it has arrived, read in pieces.

    Source: docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html.

    Raises:
        OSError: the file cannot be read.
    """
    digests = []
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digests.append(hashlib.md5(piece, usedforsecurity=False))
    if len(digests) == 1:
        return digests[0].hexdigest()
    whole = hashlib.md5(b"".join(digest.digest() for digest in digests), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(digests)}" if digests else whole.hexdigest()


def _proxy_for(endpoint: str) -> EndpointProxy | None:
    """The proxy before an endpoint that is not the cloud's own; None where no such endpoint is set."""
    addresses = [address for address in (endpoint, *cloud_addresses()) if address]
    return EndpointProxy(addresses, system_proxy(addresses[0])) if addresses else None


def _plain(etag: str | None) -> str:
    return (etag or "").strip('"')


def _generic_refusal(request: str, received: str, advice: str) -> DestinationError:
    if re.search(r"QuotaExceeded|StorageFull|InsufficientStorage|\b507\b", received):
        return PermanentUploadError(f"{request}: the storage is full: make room there or raise its quota: {received}")
    if re.search(r"\b4\d\d (?!Too Many|Request Timeout)", received):
        return PermanentUploadError(f"{request}: refused: {received}")
    if re.search(r"credential|metadata|/token", received, re.IGNORECASE):
        return Unreachable(f"{request}: no credentials: {advice}: {received}")
    return Unreachable(f"{request}: no answer: {received}; check endpoint and network, or try again later")
