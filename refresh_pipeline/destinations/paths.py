"""URLs of destinations and paths of files under their roots. Nothing here touches a disk."""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, quote, unquote, urlsplit

from refresh_pipeline.destinations import PermanentUploadError

# Up to the last @, since a password may hold any character; and what follows ? or #, where tokens travel.
SECRET_PARTS = re.compile(r"(?<=//).*@|(?<=[?#]).+", re.DOTALL)


class WrongDestination(ValueError):
    """A setting names no destination; the message says what was found, what is allowed and what to do."""


def shown(url: str) -> str:
    """A URL fit for people and logs: without user, password, query and fragment.

    >>> shown("s3://key:secret@bucket/exports?token=abc")
    's3://***@bucket/exports?***'
    """
    return SECRET_PARTS.sub(lambda match: "***@" if match[0].endswith("@") else "***", url)


def under_root(remote: str) -> PurePosixPath:
    """A file's path under the root of its destination, sure to stay there.

    >>> under_root("crypto/BTC-USDT_H1.csv")
    PurePosixPath('crypto/BTC-USDT_H1.csv')

    Raises:
        PermanentUploadError: the path is empty, absolute, or leads out of the root.
    """
    path = PurePosixPath(remote)
    if not path.parts or path.is_absolute() or ".." in path.parts or {"\\", "\0"} & set(remote):
        raise PermanentUploadError(
            f"path {remote!r} is refused: wanted one under the destination's root, "
            "such as 'crypto/BTC-USDT_H1.csv', without a leading '/', '..' and backslashes"
        )
    return path


def url_under(root: str, remote: str) -> str:
    """The URL of a file under the URL of its destination.

    >>> url_under("file:///data/up", "fx/EUR USD.csv")
    'file:///data/up/fx/EUR%20USD.csv'
    """
    return f"{root.rstrip('/')}/{quote(remote)}"


def split_url(url: str) -> SplitResult:
    """The parts of a URL.

    Raises:
        WrongDestination: it is no URL at all.
    """
    try:
        return urlsplit(url)
    except ValueError as error:
        raise WrongDestination(f"upload URL {shown(url)!r} cannot be read: {error}") from None


def path_of(url: str) -> str:
    """The absolute path in a URL without a host (`file:///data/uploads`), percent-decoded.

    >>> path_of("file:///data/my%20uploads")
    '/data/my uploads'

    Raises:
        WrongDestination: the path is relative or holds '..', or the URL has a host, a query or a fragment.
    """
    parts = split_url(url)
    path = unquote(parts.path)
    if "\0" in path or ".." in path.split("/"):
        raise WrongDestination(f"upload URL {shown(url)!r} is refused: wanted a path without '..' and zero bytes")
    if parts.netloc not in ("", "localhost") or not path.startswith("/"):
        wanted = f"{parts.scheme}:///{(parts.netloc.rpartition('@')[2] + parts.path).lstrip('/') or 'folder'}"
        raise WrongDestination(
            f"upload URL {shown(url)!r} holds no absolute path: after {parts.scheme}:// a path begins with a third "
            f"slash; if the path from the top is meant, write {wanted}"
        )
    if parts.query or parts.fragment:
        raise WrongDestination(f"upload URL {shown(url)!r} goes on after its path: write %3F for ? and %23 for #")
    return path


def folder_of(url: str) -> Path:
    """The folder that a `file:` URL names; see `path_of`."""
    return Path(path_of(url))
