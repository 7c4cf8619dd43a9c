"""Which destination is meant: from an upload URL and Dropbox's credentials to a Destination. Reads no environment."""

from pathlib import Path

from refresh_pipeline.destinations import Destination
from refresh_pipeline.destinations.folder import FolderDestination
from refresh_pipeline.destinations.paths import WrongDestination, path_of, shown, split_url


def open_destination(
    upload_url: str | None,
    *,
    default_folder: Path,
    dropbox_app_key: str | None = None,
    dropbox_app_secret: str | None = None,
    dropbox_refresh_token: str | None = None,
) -> Destination:
    """The destination that is meant: the URL's if one is set, else Dropbox if its credentials are, else a folder.

    Args:
        upload_url: `file:///a/folder`, `dropbox:///a/folder`, or None where nobody set one. A `file:` URL wins over
            credentials: who names a folder does not expect to find the files in the cloud.
        default_folder: where uploads go when nothing is set.
        dropbox_app_key: DROPBOX_APP_KEY, as set.
        dropbox_app_secret: DROPBOX_APP_SECRET, as set.
        dropbox_refresh_token: DROPBOX_REFRESH_TOKEN, as set.

    Raises:
        WrongDestination: an unknown scheme, no absolute path, or credentials that are incomplete.
    """
    credentials = {
        "DROPBOX_APP_KEY": (dropbox_app_key or "").strip(),
        "DROPBOX_APP_SECRET": (dropbox_app_secret or "").strip(),
        "DROPBOX_REFRESH_TOKEN": (dropbox_refresh_token or "").strip(),
    }
    url = (upload_url or "").strip()
    if url:
        return _named(url, credentials)
    return _dropbox(credentials) if any(credentials.values()) else FolderDestination(default_folder)


def _named(url: str, credentials: dict[str, str]) -> Destination:
    scheme = split_url(url).scheme
    if scheme == "file":
        return FolderDestination(url)
    if scheme == "dropbox":
        return _dropbox(credentials, root=path_of(url))
    raise WrongDestination(
        f"upload URL {shown(url)!r}: found the scheme {scheme or 'none'!r}, allowed: file:///a/folder and "
        "dropbox:///a/folder; set REFRESH_UPLOAD_URL to one of them"
    )


def _dropbox(credentials: dict[str, str], root: str | None = None) -> Destination:
    missing = [name for name, value in credentials.items() if not value]
    if missing:
        raise WrongDestination(
            f"Dropbox needs {', '.join(credentials)}; missing: {', '.join(missing)}. "
            "Set what is missing, or REFRESH_UPLOAD_URL=file:///a/folder to upload into a folder"
        )
    # The SDK costs a quarter of a second to import, which only those who use it shall pay.
    from refresh_pipeline.destinations.dropbox import DEFAULT_ROOT, DropboxDestination  # noqa: PLC0415

    app_key, app_secret, refresh_token = credentials.values()
    return DropboxDestination(app_key, app_secret, refresh_token, DEFAULT_ROOT if root is None else root)
