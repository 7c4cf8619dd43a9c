"""Which destination is meant: from an upload URL or a market's YAML, and credentials. Reads no environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from refresh_pipeline.destinations import Destination
from refresh_pipeline.destinations.folder import FolderDestination
from refresh_pipeline.destinations.paths import WrongDestination, path_of, shown, split_url
from refresh_pipeline.market.destination_spec import DestinationSettings, Kind

if TYPE_CHECKING:
    from refresh_pipeline.destinations.redis import RedisDestination

LONG_LIVED = "DROPBOX_ACCESS_TOKEN"


def open_destination(
    upload_url: str | None,
    *,
    default_folder: Path,
    dropbox_app_key: str | None = None,
    dropbox_app_secret: str | None = None,
    dropbox_refresh_token: str | None = None,
    dropbox_access_token: str | None = None,
) -> Destination:
    """The destination that is meant: the URL's if one is set, else Dropbox if its credentials are, else a folder.

    Args:
        upload_url: `file:///a/folder`, `dropbox:///a/folder`, or None where nobody set one. A `file:` URL wins over
            credentials: who names a folder does not expect to find the files in the cloud.
        default_folder: where uploads go when nothing is set.
        dropbox_app_key: DROPBOX_APP_KEY, as set.
        dropbox_app_secret: DROPBOX_APP_SECRET, as set.
        dropbox_refresh_token: DROPBOX_REFRESH_TOKEN, as set.
        dropbox_access_token: DROPBOX_ACCESS_TOKEN, as set: a token of the kind that lasts, in place of the three.

    Raises:
        WrongDestination: an unknown scheme, no absolute path, or credentials that are incomplete.
    """
    credentials = {
        "DROPBOX_APP_KEY": (dropbox_app_key or "").strip(),
        "DROPBOX_APP_SECRET": (dropbox_app_secret or "").strip(),
        "DROPBOX_REFRESH_TOKEN": (dropbox_refresh_token or "").strip(),
        LONG_LIVED: (dropbox_access_token or "").strip(),
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
    three = {name: value for name, value in credentials.items() if name != LONG_LIVED}
    missing = [name for name, value in three.items() if not value]
    lasting = "" if not missing else credentials[LONG_LIVED]
    if missing and not lasting:
        raise WrongDestination(
            f"Dropbox needs {', '.join(three)}; missing: {', '.join(missing)}. "
            f"Set what is missing, or {LONG_LIVED} alone if you have one of the old kind that lasts, "
            "or REFRESH_UPLOAD_URL=file:///a/folder to upload into a folder"
        )
    # The SDK costs a quarter of a second to import, which only those who use it shall pay.
    from refresh_pipeline.destinations.dropbox import DEFAULT_ROOT, DropboxDestination  # noqa: PLC0415

    where = DEFAULT_ROOT if root is None else root
    if lasting:
        return DropboxDestination(root=where, access_token=lasting)
    app_key, app_secret, refresh_token = three.values()
    return DropboxDestination(app_key, app_secret, refresh_token, where)


def open_configured(there: DestinationSettings, credentials: Mapping[str, str]) -> Destination:
    """A destination for files that a market's YAML describes.

    Args:
        there: what the YAML says.
        credentials: by the names of their environment variables, as set.

    Raises:
        WrongDestination: a credential or a package is missing.
    """
    if there.kind is Kind.folder:
        return FolderDestination(Path(there.directory).expanduser())
    if there.kind is Kind.dropbox:
        names = ("DROPBOX_APP_KEY", "DROPBOX_APP_SECRET", "DROPBOX_REFRESH_TOKEN", LONG_LIVED)
        return _dropbox({name: credentials.get(name, "") for name in names}, root=there.root)
    if there.kind is Kind.s3:
        return _s3(there, credentials)
    raise WrongDestination(f"destination {there.name!r} of kind {there.kind} takes no files")


def open_redis(there: DestinationSettings, credentials: Mapping[str, str]) -> "RedisDestination":
    """A Redis server that a market's YAML describes.

    Raises:
        WrongDestination: the package is missing.
    """
    try:
        from refresh_pipeline.destinations.redis import RedisDestination  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise _missing(there, "redis", error) from error
    return RedisDestination(there.url, credentials.get("REDIS_USERNAME", ""), credentials.get("REDIS_PASSWORD", ""))


def _s3(there: DestinationSettings, credentials: Mapping[str, str]) -> Destination:
    try:
        from refresh_pipeline.destinations.object_store import ObjectStoreDestination  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise _missing(there, "s3", error) from error
    url = f"s3://{there.bucket}/{there.prefix.strip('/')}"
    return ObjectStoreDestination(url, credentials, endpoint=there.endpoint, region=there.region)


def _missing(there: DestinationSettings, extra: str, error: ImportError) -> WrongDestination:
    return WrongDestination(
        f"destination {there.name!r} needs a package that is not installed ({error.name}): "
        f"pip install 'refresh-pipeline[{extra}]'"
    )
