"""The common part of uploads over a network: skip what is there, retry what may pass, stop at an outage.

A destination fills in how to list a folder, how to send one file and how to read an error.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from posixpath import commonpath, dirname
from typing import ClassVar, Generic, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from refresh_pipeline.destinations import (
    DestinationError,
    Outgoing,
    PermanentUploadError,
    TransientUploadError,
    Uploaded,
)
from refresh_pipeline.destinations.parallel import CircuitBreaker, map_in_threads
from refresh_pipeline.destinations.paths import under_root, url_under
from refresh_pipeline.redaction import one_line

BACK_OFF = wait_random_exponential(multiplier=0.5, max=8)
# A run that is asked to wait longer gives up: its next tick is a better time than a blocked market.
LONGEST_WAIT = 30.0
LONGEST_EXCERPT = 300

Client = TypeVar("Client")
Answer = TypeVar("Answer")


class AccessRefused(PermanentUploadError):
    """The destination refuses this account altogether; every further request would be refused too."""

    ends_all = True


class RateLimited(TransientUploadError):
    """The destination asks for no request at all during so many seconds."""

    ends_all = True

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Unreachable(TransientUploadError):
    """No answer, or an answer that is not the destination's: a dropped connection, an outage, a gateway's page."""

    is_silence = True


class FolderNotFound(PermanentUploadError):
    """The listed folder does not exist."""


class ListingRepeats(PermanentUploadError):
    """The pages of a listing come again, without end."""


class UploadingDestination(ABC, Generic[Client]):
    """A destination behind a network, as the protocol `Destination` wants it. No secret shows in its errors and repr.

    Args:
        url: of the root, without secrets.
        secrets: the values that must not show in messages.
        workers: the number of files uploaded at once.
        sleep: the function that waits between attempts.
    """

    hash_name: str
    # Attempts per request, the first one included.
    attempts: ClassVar[int]
    # The exceptions of the client library, which `_refusal` translates.
    client_errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(
        self, url: str, secrets: Sequence[str], *, workers: int, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.url = url
        self._secrets = tuple(secrets)
        self._workers = workers
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @abstractmethod
    def _session(self) -> AbstractContextManager[Client]:
        """The connections of one upload or listing."""

    @abstractmethod
    def _path(self, remote: str) -> str:
        """The path at the destination of a file under its root.

        Raises:
            PermanentUploadError: the path leads out of the root.
        """

    @abstractmethod
    def _listing(self, client: Client, folder: str) -> dict[str, str]:
        """The content hash of every file below a folder, by `_listed_name` of its path."""

    @abstractmethod
    def _send(self, client: Client, file: Outgoing, path: str, size: int, wanted: str) -> str:
        """Send one file of `size` bytes and content hash `wanted`; return the hash reported by the destination.

        Raises:
            TransientUploadError: the file arrived changed.
        """

    @abstractmethod
    def _hash_of(self, path: Path) -> str:
        """The content hash of a local file, as the destination computes it.

        Raises:
            OSError: the file cannot be read.
        """

    @abstractmethod
    def _refusal(self, error: Exception, request: str) -> DestinationError:
        """An exception of the client library, raised by `request`, as an error of this package."""

    def _listed_name(self, path: str) -> str:
        """The name of a path in a listing; differs where the destination ignores case."""
        return path

    def _clean(self, text: object) -> str:
        """A received text on one line, without secrets, at most 300 characters."""
        cleaned = one_line(str(text), self._secrets)
        return cleaned if len(cleaned) <= LONGEST_EXCERPT else f"{cleaned[: LONGEST_EXCERPT - 3]}..."

    def upload(self, files: Sequence[Outgoing]) -> Iterator[Uploaded]:
        """Upload each file unless the destination holds the same content; see Destination.

        One listing tells the hashes at the destination. Refused access, a rate limit and an outage end all further
        requests, and the remaining files get that same error.
        """
        with self._session() as client:
            try:
                hashes = self._hashes(client, [file.remote for file in files if _is_inside(file.remote)])
            except DestinationError as error:
                yield from (self._failed(file, error) for file in files)
                return
            breaker = CircuitBreaker()
            yield from map_in_threads(
                lambda file: self._uploaded(client, file, hashes.get(file.remote), breaker), files, self._workers
            )

    def hashes(self, remotes: Sequence[str]) -> dict[str, str]:
        """The content hash of each of the files that exist there, from one listing; see Destination."""
        with self._session() as client:
            return self._hashes(client, remotes)

    def _hashes(self, client: Client, remotes: Sequence[str]) -> dict[str, str]:
        names = {remote: self._path(remote) for remote in remotes}
        if not names:
            return {}
        folder = commonpath([dirname(path) for path in names.values()])
        try:
            listing = self._ask(f"listing of {self.url}", self._listing, client, folder)
        except FolderNotFound:
            return {}
        names = {remote: self._listed_name(path) for remote, path in names.items()}
        return {remote: listing[name] for remote, name in names.items() if name in listing}

    def _uploaded(self, client: Client, file: Outgoing, present: str | None, breaker: CircuitBreaker) -> Uploaded:
        try:
            uploaded = self._bring(client, file, present, breaker.error)
        except DestinationError as error:
            breaker.failed(error)
            return self._failed(file, error)
        breaker.succeeded()
        return uploaded

    def _bring(self, client: Client, file: Outgoing, present: str | None, halt: DestinationError | None) -> Uploaded:
        path, url = self._path(file.remote), url_under(self.url, file.remote)
        try:
            size, wanted = file.path.stat().st_size, self._hash_of(file.path)
        except OSError as error:
            raise PermanentUploadError(f"{file.path}: nothing to upload: {error.strerror}; export it again") from error
        if present and present in (wanted, file.known_hash):
            return Uploaded(file, url, size, present, skipped=True)
        if halt is not None:
            raise halt
        arrived = self._ask(f"upload of {size:,} bytes to {url}", self._send, client, file, path, size, wanted)
        return Uploaded(file, url, size, arrived)

    def _failed(self, file: Outgoing, error: DestinationError) -> Uploaded:
        return Uploaded(file, url_under(self.url, file.remote), error=error)

    def _ask(self, request: str, call: Callable[..., Answer], *arguments: object) -> Answer:
        """The answer to a request, retried a bounded number of times where a retry could help."""
        retrying = Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=_wait,
            retry=retry_if_exception(_is_worth_another),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(self._once, request, call, *arguments)

    def _once(self, request: str, call: Callable[..., Answer], *arguments: object) -> Answer:
        try:
            return call(*arguments)
        except self.client_errors as error:
            # Without the original: it may quote the request, secrets included.
            raise self._refusal(error, request) from None
        except OSError as error:
            raise PermanentUploadError(f"{request}: not readable here: {error}; export it again") from error


def _is_inside(remote: str) -> bool:
    try:
        return bool(under_root(remote))
    except PermanentUploadError:
        return False


def _is_worth_another(error: BaseException) -> bool:
    waits_too_long = isinstance(error, RateLimited) and error.seconds > LONGEST_WAIT
    return isinstance(error, TransientUploadError) and not waits_too_long


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.seconds if isinstance(error, RateLimited) else BACK_OFF(state)
