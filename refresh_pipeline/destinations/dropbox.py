"""Uploads into Dropbox over its official SDK.

The SDK never retries here: one policy, that of `uploading`, does, so that a run's waiting is bounded. Importing this
module imports the SDK, a quarter of a second; the registry does so only where Dropbox is meant.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dropbox import Dropbox
from dropbox.dropbox_client import create_session
from dropbox.exceptions import ApiError, AuthError, BadInputError, DropboxException, InternalServerError, RateLimitError
from dropbox.file_transfer import FileUpload, TransferError, Uploader, UploadOptions
from dropbox.files import CommitInfo, FileMetadata, UploadWriteFailed, WriteMode
from dropbox.files import LookupError as FolderLookupError
from dropbox.stone_validators import ValidationError
from requests import RequestException, Session, TooManyRedirects

from refresh_pipeline.destinations import DestinationError, Outgoing, PermanentUploadError, TransientUploadError
from refresh_pipeline.destinations.hashes import dropbox_hash_of
from refresh_pipeline.destinations.paths import WrongDestination, under_root
from refresh_pipeline.destinations.uploading import (
    AccessRefused,
    FolderNotFound,
    ListingRepeats,
    RateLimited,
    Unreachable,
    UploadingDestination,
)
from refresh_pipeline.market.destination_spec import DROPBOX_ROOT, DropboxSpec

APP_CREDENTIALS = ("DROPBOX_APP_KEY", "DROPBOX_APP_SECRET", "DROPBOX_REFRESH_TOKEN")
# A token of the old kind that lasts, in place of the three.
ACCESS_TOKEN = "DROPBOX_ACCESS_TOKEN"  # noqa: S105 - a name

# Longer files go through an upload session, in pieces of 8 MiB: after a break it goes on with the piece that was
# missing. Dropbox would take ten times as much in one request, which a dropped connection would begin anew.
SINGLE_REQUEST_BYTES = 16 * 1024 * 1024
# How often the SDK asks for a piece; its waits grow to 5 s, so that a break of some ten seconds is bridged.
PIECE_ATTEMPTS = 8
# Files on their way at once. Writers of one account get in one another's way there (too_many_write_operations).
WORKERS = 4
LISTING_PAGE = 2000

ATTEMPTS = 5
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


class DropboxDestination(UploadingDestination[Dropbox]):
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
    attempts = ATTEMPTS
    client_errors = SDK_ERRORS

    def __init__(
        self,
        app_key: str = "",
        app_secret: str = "",
        refresh_token: str = "",
        root: str = DROPBOX_ROOT,
        *,
        access_token: str = "",
        session: Session | None = None,
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        workers: int = WORKERS,
    ) -> None:
        self.root = f"/{root.strip('/')}".rstrip("/")
        secrets = (app_secret, refresh_token, app_key, access_token)
        super().__init__(f"dropbox://{quote(self.root) or '/'}", secrets, workers=workers, sleep=sleep)
        self._connections = session
        self._timeout = timeout

    @classmethod
    def from_spec(cls, spec: DropboxSpec, credentials: Mapping[str, str]) -> "DropboxDestination":
        """The folder in Dropbox that a spec describes.

        Raises:
            WrongDestination: the credentials are incomplete.
        """
        app_key, app_secret, refresh_token = (credentials.get(name, "") for name in APP_CREDENTIALS)
        if app_key and app_secret and refresh_token:
            return cls(app_key, app_secret, refresh_token, spec.root)
        if access_token := credentials.get(ACCESS_TOKEN, ""):
            return cls(root=spec.root, access_token=access_token)
        missing = [name for name in APP_CREDENTIALS if not credentials.get(name)]
        raise WrongDestination(
            f"Dropbox needs {', '.join(APP_CREDENTIALS)}; missing: {', '.join(missing)}. "
            f"Set what is missing, or {ACCESS_TOKEN} alone if you have one of the old kind that lasts, "
            "or REFRESH_UPLOAD_URL=file:///a/folder to upload into a folder"
        )

    def _session(self) -> Dropbox:
        # None as max_retries_on_rate_limit would wait for ever.
        app_secret, refresh_token, app_key, access_token = (secret or None for secret in self._secrets)
        return Dropbox(
            oauth2_access_token=None if refresh_token else access_token,
            oauth2_refresh_token=refresh_token,
            app_key=app_key if refresh_token else None,
            app_secret=app_secret if refresh_token else None,
            session=self._without_redirects(),
            timeout=self._timeout,  # pyright: ignore[reportArgumentType] - documented as a float
            user_agent="refresh-pipeline",
            max_retries_on_error=0,
            max_retries_on_rate_limit=0,
        )

    def _without_redirects(self) -> Session:
        # Dropbox never sends its clients elsewhere; whoever does would get files, and be believed.
        session = self._connections or create_session()
        session.max_redirects = 0
        return session

    def _path(self, remote: str) -> str:
        return f"{self.root}/{under_root(remote)}"

    def _listing(self, client: Dropbox, folder: str) -> dict[str, str]:
        page: Any = client.files_list_folder(folder.rstrip("/"), recursive=True, limit=LISTING_PAGE)
        entries, cursors = list(page.entries), set[str]()
        while page.has_more:
            if page.cursor in cursors:
                raise ListingRepeats(f"{self.url}: the listing repeats itself after {len(entries)} entries")
            cursors.add(page.cursor)
            page = client.files_list_folder_continue(page.cursor)
            entries += page.entries
        return {entry.path_lower: entry.content_hash for entry in entries if isinstance(entry, FileMetadata)}

    def _listed_name(self, path: str) -> str:
        return path.lower()

    def _hash_of(self, path: Path) -> str:
        return dropbox_hash_of(path)

    def _send(self, client: Dropbox, file: Outgoing, path: str, size: int, wanted: str) -> str:
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
        return arrived.content_hash

    def _refusal(self, error: Exception, request: str) -> DestinationError:
        return _refusal(error, request, self._clean)

    def _clean(self, text: object) -> str:
        return super()._clean(SECRETS.sub("***", str(text)))


def _refusal(error: Exception, what: str, clean: Callable[[object], str]) -> DestinationError:
    """What the SDK raised, in the pipeline's words."""
    match error:
        case ApiError():
            return _api_refusal(error, what, clean)
        case AuthError():
            return AccessRefused(f"{what}: {_access_words(error)}")
        case RateLimitError():
            seconds = DEFAULT_WAIT if error.backoff is None else float(error.backoff)
            return RateLimited(f"{what}: Dropbox asks for no requests during {seconds:g} s: try again after", seconds)
        case BadInputError():
            return _bad_input(clean(error.message), what)
        case InternalServerError():
            return Unreachable(f"{what}: Dropbox is out of order (HTTP {error.status_code}): try again later")
        case DropboxException():
            return PermanentUploadError(f"{what}: refused: {clean(error)}")
        case RequestException():
            return _silence(error, what, clean)
        case ValidationError():
            return TransientUploadError(
                f"{what}: Dropbox's answer is one its SDK cannot read: {clean(error)}; try again"
            )
        case TransferError():
            return TransientUploadError(f"{what}: {clean(error)}; it changed on its way: try again")
    received = f"{type(error).__name__}: {clean(error)}"
    return Unreachable(f"{what}: an answer that is not Dropbox's ({received}): is a proxy or a gateway between?")


def _silence(error: RequestException, what: str, clean: Callable[[object], str]) -> DestinationError:
    if isinstance(error, TooManyRedirects):
        return PermanentUploadError(
            f"{what}: sent to another address, which is not followed: is a proxy or a login page between?"
        )
    return Unreachable(f"{what}: no answer: {clean(error)}; check the network, or try again later")


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
        return FolderNotFound(f"{what}: there is no such folder")
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
