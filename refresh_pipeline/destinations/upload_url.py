"""REFRESH_UPLOAD_URL as the shorthand of a destination's spec."""

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlunsplit

from pydantic import ValidationError

from refresh_pipeline.destinations.paths import WrongDestination, path_of, shown, split_url
from refresh_pipeline.market.destination_spec import (
    BUCKET_SCHEMES,
    BUCKET_URLS,
    DropboxSpec,
    FileSpec,
    FolderSpec,
    ObjectStoreSpec,
    UploadsSpec,
)

ALLOWED = f"file:///a/folder, dropbox:///a/folder, {BUCKET_URLS}"
# The options of an s3:// URL that its query may hold, as they are called in YAML.
BUCKET_OPTIONS = ("endpoint", "region", "insecure_http")


OFF = (
    "off, no destination is named: set REFRESH_UPLOAD_URL=file:///a/folder, "
    "or destinations: {uploads: {}} in the market's YAML"
)


def is_off(spec: UploadsSpec, upload_url: str | None, credentials: Mapping[str, str]) -> bool:
    """Whether nothing is uploaded, since neither a setting nor the market's YAML names a destination.

    >>> is_off(UploadsSpec(), None, {}), is_off(UploadsSpec(), "file:///srv/candles", {})
    (True, False)

    Args:
        spec: of the market.
        upload_url: REFRESH_UPLOAD_URL, as set.
        credentials: the set credentials, by the name of their environment variable.
    """
    return not (spec.is_named or (upload_url or "").strip() or _uses_dropbox(credentials))


def _uses_dropbox(credentials: Mapping[str, str]) -> bool:
    return any(value for name, value in credentials.items() if name.startswith("DROPBOX_"))


def uploads_spec(upload_url: str | None, credentials: Mapping[str, str], default_folder: Path) -> FileSpec:
    """The spec that the settings name: the URL's if one is set, else Dropbox if its credentials are, else a folder.

    A URL wins over credentials: whoever names a folder does not expect the files in the cloud.

    >>> uploads_spec("file:///srv/candles", {}, Path("uploads")).kind
    'folder'

    Args:
        upload_url: REFRESH_UPLOAD_URL, as set.
        credentials: the set credentials, by the name of their environment variable.
        default_folder: the folder where nothing is set.

    Raises:
        WrongDestination: an unknown scheme, no absolute path, no bucket, or an option that is none.
    """
    url = (upload_url or "").strip()
    if not url:
        if _uses_dropbox(credentials):
            return DropboxSpec(kind="dropbox")
        return FolderSpec(kind="folder", directory=str(default_folder))
    scheme = split_url(url).scheme
    if scheme in SPECS:
        return SPECS[scheme](url)
    raise WrongDestination(
        f"upload URL {shown(url)!r}: found the scheme {scheme or 'none'!r}; set REFRESH_UPLOAD_URL to {ALLOWED}"
    )


def _bucket(url: str) -> ObjectStoreSpec:
    parts = split_url(url)
    options = dict(parse_qsl(parts.query))
    if "@" in parts.netloc or parts.fragment or not options.keys() <= set(BUCKET_OPTIONS):
        raise WrongDestination(
            f"upload URL {shown(url)!r} holds credentials or unknown options; allowed: {BUCKET_URLS}, on s3:// with "
            f"?endpoint=https://...&region=...; keys belong into AWS_ACCESS_KEY_ID and the like"
        )
    bare = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    try:
        return ObjectStoreSpec.model_validate({"kind": "object_store", "url": bare, **options})
    except ValidationError as error:
        reasons = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise WrongDestination(f"upload URL {shown(url)!r} is refused: {reasons}") from None


SPECS: Mapping[str, Callable[[str], FileSpec]] = {
    "file": lambda url: FolderSpec(kind="folder", directory=path_of(url)),
    "dropbox": lambda url: DropboxSpec(kind="dropbox", root=path_of(url)),
    **dict.fromkeys(BUCKET_SCHEMES, _bucket),
}
