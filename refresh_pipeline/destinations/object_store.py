"""Uploads into a bucket of S3-compatible storage, over obstore: what it holds already, what it refuses.

Importing this module imports obstore, which is an extra; `opening` does so only where a bucket is meant.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from posixpath import commonpath, dirname
from typing import Any, TypeVar

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    InvalidPathError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from refresh_pipeline.destinations import (
    DestinationError,
    Outgoing,
    PermanentUploadError,
    TransientUploadError,
    Uploaded,
)
from refresh_pipeline.destinations.parallel import Going, side_by_side
from refresh_pipeline.destinations.paths import under_root, url_under

# Longer files go in pieces of this size; a piece that did not arrive is sent again by itself.
PIECE_BYTES = 16 * 1024 * 1024
WORKERS = 8
# Of a request, by obstore, which does not repeat an upload whose connection was dropped; and of that, by us.
RETRIES = 2
LONGEST_RETRY = timedelta(seconds=30)
ATTEMPTS = 3
BACK_OFF = wait_random_exponential(multiplier=0.5, max=8)

T = TypeVar("T")


class BucketRefused(PermanentUploadError):
    """The storage refuses this account or bucket altogether: whatever is sent next would be refused too."""

    ends_all = True


class BucketSilent(TransientUploadError):
    """No answer, or that of a server out of order, after several attempts."""

    is_silence = True


class S3Destination:
    """A folder in a bucket. No secret shows in its errors, logs and repr.

    Args:
        bucket: its name.
        prefix: the folder in it; the top where it is empty.
        endpoint: of the storage, `https://...`; Amazon's of the region where it is empty.
        region: of the bucket.
        access_key_id: the account's.
        secret_access_key: likewise.
        session_token: likewise, where there is one.
        timeout: seconds without an answer after which a request has failed.
        sleep: how to wait between attempts.
    """

    # Of a file sent whole; of one sent in pieces, the MD5 of their MD5s and how many they were. Storage calls it ETag.
    hash_name = "md5"

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str = "",
        region: str = "us-east-1",
        access_key_id: str,
        secret_access_key: str,
        session_token: str = "",
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.prefix = prefix.strip("/")
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self._sleep = sleep
        self._secrets = (secret_access_key, session_token, access_key_id)
        config: Any = {
            "region": region,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
        }
        optional = {"endpoint": endpoint, "session_token": session_token}
        self._store = S3Store(
            bucket,
            config=config | {name: value for name, value in optional.items() if value},
            client_options={"allow_http": endpoint.startswith("http://"), "timeout": timedelta(seconds=timeout)},
            retry_config={"max_retries": RETRIES, "retry_timeout": LONGEST_RETRY},
        )

    def __repr__(self) -> str:
        return f"S3Destination({self.url!r})"

    def upload(self, files: Sequence[Outgoing]) -> Iterator[Uploaded]:
        """Bring each file there unless it is there already; see Destination.

        One listing says what is there. A refusal of the account, or an outage, ends all further requests.
        """
        try:
            there = self.hashes([file.remote for file in files if _is_inside(file.remote)])
        except DestinationError as error:
            return iter([self._failed(file, error) for file in files])
        going = Going()

        def bring(file: Outgoing) -> Uploaded:
            try:
                uploaded = self._bring(file, there.get(file.remote), going.halt)
            except DestinationError as error:
                going.failed(error)
                return self._failed(file, error)
            going.arrived()
            return uploaded

        return side_by_side(bring, files, WORKERS)

    def hashes(self, remotes: Sequence[str]) -> dict[str, str]:
        """The ETag of each of the files that is there, from one listing; see Destination."""
        keys = {remote: self._key(remote) for remote in remotes}
        if not keys:
            return {}
        folder = commonpath([dirname(key) for key in keys.values()])
        there = self._ask(f"listing of {self.url}", self._listing, folder)
        return {remote: there[key] for remote, key in keys.items() if key in there}

    def _listing(self, folder: str) -> dict[str, str]:
        pages = obstore.list(self._store, prefix=folder or None)
        return {meta["path"]: _plain(meta["e_tag"]) for page in pages for meta in page}

    def _key(self, remote: str) -> str:
        return str(self.prefix / under_root(remote)) if self.prefix else str(under_root(remote))

    def _bring(self, file: Outgoing, there: str | None, halt: DestinationError | None) -> Uploaded:
        url = url_under(self.url, file.remote)
        key = self._key(file.remote)
        try:
            size, wanted = file.path.stat().st_size, etag_of(file.path)
        except OSError as error:
            raise PermanentUploadError(f"{file.path}: nothing to upload: {error.strerror}; export it again") from error
        if there == wanted:
            return Uploaded(file, url, size, wanted, skipped=True)
        if halt is not None:
            raise halt
        arrived = self._ask(f"upload of {size:,} bytes to {url}", self._send, file.path, key, size)
        # Encrypted by the storage's own key service, an ETag is no MD5; the request's signature covered the content.
        if re.fullmatch(r"[0-9a-f]{32}(-\d+)?", arrived) and arrived != wanted:
            raise TransientUploadError(
                f"{url}: arrived changed: wanted ETag {wanted}, received {arrived}; it changed on its way: try again"
            )
        return Uploaded(file, url, size, arrived)

    def _send(self, path: Path, key: str, size: int) -> str:
        whole = size <= PIECE_BYTES
        content = path.read_bytes() if whole else path
        sent = obstore.put(self._store, key, content, use_multipart=not whole, chunk_size=PIECE_BYTES)
        return _plain(sent["e_tag"])

    def _failed(self, file: Outgoing, error: DestinationError) -> Uploaded:
        return Uploaded(file, url_under(self.url, file.remote), error=error)

    def _ask(self, what: str, request: Callable[..., T], *arguments: object) -> T:
        """The answer to a request, asked again a bounded number of times where that could help."""
        attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=BACK_OFF,
            retry=retry_if_exception_type(TransientUploadError),
            sleep=self._sleep,
            reraise=True,
        )
        return attempts(self._once, what, request, *arguments)

    def _once(self, what: str, request: Callable[..., T], *arguments: object) -> T:
        try:
            return request(*arguments)
        except BaseError as error:
            # Without the original: it may quote the request, keys included.
            raise _refusal(error, what, self._clean(error)) from None
        except OSError as error:
            raise PermanentUploadError(f"{what}: not readable here: {error}; export it again") from error

    def _clean(self, error: Exception) -> str:
        cleaned = " ".join(str(error).split())
        for secret in filter(None, self._secrets):
            cleaned = cleaned.replace(secret, "***")
        return cleaned if len(cleaned) <= 300 else f"{cleaned[:297]}..."


def etag_of(path: Path) -> str:
    """What storage calls a file's content once it has arrived, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    digests = []
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digests.append(hashlib.md5(piece, usedforsecurity=False))
    if len(digests) == 1:
        return digests[0].hexdigest()
    whole = hashlib.md5(b"".join(digest.digest() for digest in digests), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(digests)}" if digests else whole.hexdigest()


def _plain(etag: str | None) -> str:
    return (etag or "").strip('"')


def _is_inside(remote: str) -> bool:
    try:
        return bool(under_root(remote))
    except PermanentUploadError:
        return False


def _refusal(error: BaseError, what: str, received: str) -> DestinationError:
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or re.search(r"\b40[13] ", received):
        return BucketRefused(
            f"{what}: access refused: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are wrong, or may not write there: "
            f"{received}"
        )
    if isinstance(error, NotFoundError) or "NoSuchBucket" in received:
        return BucketRefused(f"{what}: there is no such bucket: make it, or correct its name: {received}")
    if isinstance(error, InvalidPathError):
        return PermanentUploadError(f"{what}: the storage cannot hold such a name: {received}")
    if isinstance(error, GenericError):
        return _generic(what, received)
    return PermanentUploadError(f"{what}: refused: {received}")


def _generic(what: str, received: str) -> DestinationError:
    if re.search(r"QuotaExceeded|StorageFull|InsufficientStorage|\b507\b", received):
        return PermanentUploadError(f"{what}: the storage is full: make room there or raise its quota: {received}")
    if re.search(r"\b4\d\d (?!Too Many|Request Timeout)", received):
        return PermanentUploadError(f"{what}: refused: {received}")
    return BucketSilent(f"{what}: no answer: {received}; check endpoint and network, or try again later")
