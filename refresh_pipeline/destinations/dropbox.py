"""Uploads into Dropbox, over its official SDK: what it holds already, what it refuses, when to ask again.

The SDK never retries here: one policy, `_ask`, does, so that what a run waits for is bounded. Importing this module
imports the SDK, a quarter of a second; `opening` does so only where Dropbox is meant.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from posixpath import commonpath, dirname
from typing import Any, TypeVar
from urllib.parse import quote

from dropbox import Dropbox
from dropbox.exceptions import ApiError, AuthError, BadInputError, DropboxException, InternalServerError, RateLimitError
from dropbox.file_transfer import FileUpload, TransferError, Uploader, UploadOptions
from dropbox.files import CommitInfo, FileMetadata, UploadWriteFailed, WriteMode
from dropbox.files import LookupError as FolderLookupError
from dropbox.stone_validators import ValidationError
from requests import RequestException, Session
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from refresh_pipeline.destinations import (
    DestinationError,
    Outgoing,
    PermanentUploadError,
    TransientUploadError,
    Uploaded,
)
from refresh_pipeline.destinations.hashes import dropbox_hash_of
from refresh_pipeline.destinations.parallel import Going, side_by_side
from refresh_pipeline.destinations.paths import under_root, url_under

DEFAULT_ROOT = "/refresh-pipeline"

# Longer files go through an upload session, in pieces of 8 MiB: after a break it goes on with the piece that was
# missing. Dropbox would take ten times as much in one request, which a dropped connection would begin anew.
SINGLE_REQUEST_BYTES = 16 * 1024 * 1024
# How often the SDK asks for a piece; its waits grow to 5 s, so that a break of some ten seconds is bridged.
PIECE_ATTEMPTS = 8
# Files on their way at once. Writers of one account get in one another's way there (too_many_write_operations).
WORKERS = 4
LISTING_PAGE = 2000

ATTEMPTS = 5
BACK_OFF = wait_random_exponential(multiplier=0.5, max=8)
# Told to wait longer than this, a run gives up: its next tick is a better time than a blocked market.
LONGEST_WAIT = 30.0
DEFAULT_WAIT = 5.0

# What the SDK raises of its own, and where it meets an answer that is not Dropbox's: a gateway's page, a proxy's login.
SDK_ERRORS = (
    *(DropboxException, RequestException, TransferError),
    *(ValidationError, ValueError, AssertionError, KeyError, TypeError, AttributeError),
)

# The tags of a refused file, in Dropbox's words and ours.
REASONS: dict[str, tuple[type[DestinationError], str]] = {
    "insufficient_space": (PermanentUploadError, "the account is full: make room there or enlarge its plan"),
    "team_folder_insufficient_space": (PermanentUploadError, "the team folder is full: make room there"),
    "member_folder_insufficient_space": (PermanentUploadError, "the member's folder is full: make room there"),
    "upload_traffic_limit_reached": (
        PermanentUploadError,
        "the account's traffic is used up: wait or enlarge its plan",
    ),
    "malformed_path": (PermanentUploadError, "Dropbox cannot hold such a path: choose another root or name"),
    "disallowed_name": (PermanentUploadError, "Dropbox does not allow this name: choose another one"),
    "no_write_permission": (PermanentUploadError, "the account may not write there: share the folder with it"),
    "access_restricted": (PermanentUploadError, "the account may not go there: choose another root"),
    "team_folder": (PermanentUploadError, "a team folder is in the way: choose another root"),
    "not_folder": (PermanentUploadError, "a file is where the folder should be: move it away"),
    "file_ancestor": (PermanentUploadError, "a file is where a folder should be: move it away"),
    "folder": (PermanentUploadError, "a folder is where the file should be: move it away"),
    "file": (TransientUploadError, "another writer was at the same file: try again later"),
    "too_many_write_operations": (TransientUploadError, "others are writing there: try again later"),
    "content_hash_mismatch": (TransientUploadError, "the content was damaged on its way: try again"),
    "lookup_failed": (TransientUploadError, "the upload session was lost: try again"),
    "reset": (TransientUploadError, "the listing was cut short: try again"),
}

NOT_AUTHORIZED = (
    "the app was revoked, or DROPBOX_APP_KEY, DROPBOX_APP_SECRET and DROPBOX_REFRESH_TOKEN do not belong together: "
    "authorize the app again and set all three (DROPBOX_ACCESS_TOKEN alone counts where it is one that lasts)"
)
# Dropbox answers these as plain text; they are about the app, not about a file.
ABOUT_THE_APP = re.compile(r"invalid_client|unauthorized_client|required scope|this app|access token", re.IGNORECASE)
SECRETS = re.compile(r"(?<=\bsl\.)[\w.~+/=-]+|(?<=bearer )\S+|(?<=//)[^/\s]*@", re.IGNORECASE)

T = TypeVar("T")


class AccessRefused(PermanentUploadError):
    """Dropbox refuses this app or account altogether: whatever is asked next would be refused too."""

    ends_all = True


class AskedToWait(TransientUploadError):
    """Dropbox asks for no request at all during so many seconds."""

    ends_all = True

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Unreachable(TransientUploadError):
    """No answer, or none of Dropbox's: a dropped connection, an outage, a gateway's page."""

    is_silence = True


class NothingThere(PermanentUploadError):
    """The folder that was asked for does not exist."""


class DropboxDestination:
    """A folder in Dropbox, reached by an app's refresh token. No secret shows in its errors, logs and repr.

    Args:
        app_key: of the app, from its page in the App Console.
        app_secret: likewise.
        refresh_token: what the account gave the app; it needs files.content.write and files.metadata.read.
        access_token: in place of these three, a token of the kind that lasts; Dropbox gives out no new ones.
        root: the absolute path in Dropbox under which everything goes; "/" is the top (of the app's folder).
        session: the connections to use; by default the SDK makes its own.
        timeout: seconds without a byte to or from Dropbox after which a request has failed.
        sleep: how to wait between attempts.
        workers: how many files are on their way at once.
    """

    hash_name = "dropbox"

    def __init__(
        self,
        app_key: str = "",
        app_secret: str = "",
        refresh_token: str = "",
        root: str = DEFAULT_ROOT,
        *,
        access_token: str = "",
        session: Session | None = None,
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        workers: int = WORKERS,
    ) -> None:
        self.root = f"/{root.strip('/')}".rstrip("/")
        self.url = f"dropbox://{quote(self.root) or '/'}"
        self._secrets = (app_secret, refresh_token, app_key, access_token)
        self._workers = workers
        self._session = session
        self._timeout = timeout
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"DropboxDestination({self.url!r})"

    def upload(self, files: Sequence[Outgoing]) -> Iterator[Uploaded]:
        """Bring each file there unless it is there already; see Destination.

        One listing says what is there. What concerns every file (no access, a request to wait, an outage) ends all
        further requests, and the files still to be sent get that same error.
        """
        with self._client() as client:
            try:
                there = self._hashes(client, [file.remote for file in files if _is_inside(file.remote)])
            except DestinationError as error:
                yield from (self._failed(file, error) for file in files)
                return
            yield from self._upload_each(client, files, there)

    def hashes(self, remotes: Sequence[str]) -> dict[str, str]:
        """Dropbox's content hash of each of the files that is there, from one listing; see Destination."""
        with self._client() as client:
            return self._hashes(client, remotes)

    def _client(self) -> Dropbox:
        # None as max_retries_on_rate_limit would wait for ever.
        app_secret, refresh_token, app_key, access_token = (secret or None for secret in self._secrets)
        return Dropbox(
            oauth2_access_token=None if refresh_token else access_token,
            oauth2_refresh_token=refresh_token,
            app_key=app_key if refresh_token else None,
            app_secret=app_secret if refresh_token else None,
            session=self._session,
            timeout=self._timeout,  # pyright: ignore[reportArgumentType] - documented as a float
            user_agent="refresh-pipeline",
            max_retries_on_error=0,
            max_retries_on_rate_limit=0,
        )

    def _path(self, remote: str) -> str:
        return f"{self.root}/{under_root(remote)}"

    def _hashes(self, client: Dropbox, remotes: Sequence[str]) -> dict[str, str]:
        paths = {remote: self._path(remote) for remote in remotes}
        if not paths:
            return {}
        folder = commonpath([dirname(path) for path in paths.values()])
        try:
            there = self._ask(f"listing of dropbox:{folder}", _listing, client, folder)
        except NothingThere:
            return {}
        # Dropbox is blind to case.
        return {remote: there[path.lower()] for remote, path in paths.items() if path.lower() in there}

    def _upload_each(self, client: Dropbox, files: Sequence[Outgoing], there: dict[str, str]) -> Iterator[Uploaded]:
        going = Going()

        def bring(file: Outgoing) -> Uploaded:
            try:
                uploaded = self._bring(client, file, there.get(file.remote), going.halt)
            except DestinationError as error:
                going.failed(error)
                return self._failed(file, error)
            going.arrived()
            return uploaded

        return side_by_side(bring, files, self._workers)

    def _bring(self, client: Dropbox, file: Outgoing, there: str | None, halt: DestinationError | None) -> Uploaded:
        path = self._path(file.remote)
        size, wanted = _size_and_hash(file)
        if there != wanted:
            if halt is not None:
                raise halt
            self._ask(f"upload of {size:,} bytes to dropbox:{path}", _send, client, file, path, size, wanted)
        return Uploaded(file, url_under(self.url, file.remote), size, wanted, skipped=there == wanted)

    def _failed(self, file: Outgoing, error: DestinationError) -> Uploaded:
        return Uploaded(file, url_under(self.url, file.remote), error=error)

    def _ask(self, what: str, request: Callable[..., T], *args: Any) -> T:
        """The answer to a request, asked again a bounded number of times where that could help."""
        attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            retry=retry_if_exception(_is_worth_another),
            sleep=self._sleep,
            reraise=True,
        )
        return attempts(self._once, what, request, *args)

    def _once(self, what: str, request: Callable[..., T], *args: Any) -> T:
        try:
            return request(*args)
        except SDK_ERRORS as error:
            # Without the original: it may quote the request, tokens included.
            raise _refusal(error, what, self._clean) from None
        except OSError as error:
            raise PermanentUploadError(f"{what}: not readable here: {error}; export it again") from error

    def _clean(self, text: object) -> str:
        cleaned = " ".join(str(text).split())
        for secret in filter(None, self._secrets):
            cleaned = cleaned.replace(secret, "***")
        cleaned = SECRETS.sub("***", cleaned)
        return cleaned if len(cleaned) <= 300 else f"{cleaned[:297]}..."


def _is_inside(remote: str) -> bool:
    try:
        return bool(under_root(remote))
    except PermanentUploadError:
        return False


def _listing(client: Dropbox, folder: str) -> dict[str, str]:
    """The content hash of every file below a folder, by its path in lower case."""
    page: Any = client.files_list_folder(folder.rstrip("/"), recursive=True, limit=LISTING_PAGE)
    entries = list(page.entries)
    while page.has_more:
        page = client.files_list_folder_continue(page.cursor)
        entries += page.entries
    return {entry.path_lower: entry.content_hash for entry in entries if isinstance(entry, FileMetadata)}


def _size_and_hash(file: Outgoing) -> tuple[int, str]:
    try:
        return file.path.stat().st_size, dropbox_hash_of(file.path)
    except OSError as error:
        raise PermanentUploadError(f"{file.path}: nothing to upload: {error.strerror}; export it again") from error


def _send(client: Dropbox, file: Outgoing, path: str, size: int, wanted: str) -> None:
    arrived: Any
    # Muted: a thousand files a minute are no news for the account's desktops.
    if size > SINGLE_REQUEST_BYTES:
        whole = CommitInfo(path, mode=WriteMode.overwrite, mute=True)
        options = UploadOptions(max_attempts=PIECE_ATTEMPTS)
        arrived = Uploader(client).upload(FileUpload(file.path), whole, options).metadata
    else:
        content = file.path.read_bytes()
        arrived = client.files_upload(content, path, mode=WriteMode.overwrite, mute=True, content_hash=wanted)
    if (arrived.size, arrived.content_hash) != (size, wanted):
        raise TransientUploadError(
            f"dropbox:{path}: arrived changed: wanted {size:,} bytes with content hash {wanted}, "
            f"received {arrived.size:,} with {arrived.content_hash}; upload it again"
        )


def _is_worth_another(error: BaseException) -> bool:
    waits_too_long = isinstance(error, AskedToWait) and error.seconds > LONGEST_WAIT
    return isinstance(error, TransientUploadError) and not waits_too_long


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.seconds if isinstance(error, AskedToWait) else BACK_OFF(state)


def _refusal(error: Exception, what: str, clean: Callable[[object], str]) -> DestinationError:
    """What the SDK raised, in the pipeline's words."""
    match error:
        case ApiError():
            return _api_refusal(error, what, clean)
        case AuthError():
            return AccessRefused(f"{what}: {_access_words(error)}")
        case RateLimitError():
            seconds = DEFAULT_WAIT if error.backoff is None else float(error.backoff)
            return AskedToWait(f"{what}: Dropbox asks for no requests during {seconds:g} s: try again after", seconds)
        case BadInputError():
            return _bad_input(clean(error.message), what)
        case InternalServerError():
            return Unreachable(f"{what}: Dropbox is out of order (HTTP {error.status_code}): try again later")
        case DropboxException():
            return PermanentUploadError(f"{what}: refused: {clean(error)}")
        case RequestException():
            return Unreachable(f"{what}: no answer: {clean(error)}; check the network, or try again later")
        case ValidationError():
            return TransientUploadError(
                f"{what}: Dropbox's answer is one its SDK cannot read: {clean(error)}; try again"
            )
        case TransferError():
            return TransientUploadError(f"{what}: {clean(error)}; it changed on its way: try again")
    received = f"{type(error).__name__}: {clean(error)}"
    return Unreachable(f"{what}: an answer that is not Dropbox's ({received}): is a proxy or a gateway between?")


def _bad_input(message: str, what: str) -> DestinationError:
    if ABOUT_THE_APP.search(message):
        return AccessRefused(f"{what}: refused: {message}; {NOT_AUTHORIZED}")
    return PermanentUploadError(f"{what}: Dropbox cannot read the request: {message}")


def _access_words(error: AuthError) -> str:
    reason = error.error
    if reason is not None and reason.is_missing_scope():
        scope = reason.get_missing_scope().required_scope
        return f"the app lacks {scope}: tick it under Permissions in the App Console, then authorize the app again"
    if reason is not None and reason.is_user_suspended():
        return "the account is suspended: ask its administrator"
    return f"access refused: {NOT_AUTHORIZED}"


def _api_refusal(error: ApiError, what: str, clean: Callable[[object], str]) -> DestinationError:
    reason = _innermost(error.error)
    if isinstance(reason, FolderLookupError) and reason.is_not_found():
        return NothingThere(f"{what}: there is no such folder")
    for tag, (kind, words) in REASONS.items():
        if _is(reason, tag):
            return kind(f"{what}: {words} (Dropbox says {tag})")
    return PermanentUploadError(f"{what}: refused: {clean(error.user_message_text or error.error)}")


def _innermost(error: Any) -> Any:
    """The refusal proper, out of the envelopes that differ from endpoint to endpoint."""
    if _is(error, "path"):
        path = error.get_path()
        return _innermost(path.reason if isinstance(path, UploadWriteFailed) else path)
    return error.get_conflict() if _is(error, "conflict") else error


def _is(union: Any, tag: str) -> bool:
    return getattr(union, f"is_{tag}", bool)()
