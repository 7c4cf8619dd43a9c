"""The destinations by kind, and how one is opened from its spec and the credentials. Reads no environment."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refresh_pipeline.destinations import Destination
from refresh_pipeline.destinations.paths import WrongDestination
from refresh_pipeline.destinations.upload_url import is_off, uploads_spec
from refresh_pipeline.extras import install_command
from refresh_pipeline.market.destination_spec import BaseSpec, FileSpec, RedisSpec, UploadsSpec

if TYPE_CHECKING:
    from refresh_pipeline.destinations.redis import RedisDestination

# Module and class by kind, imported when one is opened: the client libraries take up to a second, or are extras.
DESTINATIONS: Mapping[str, str] = {
    "folder": "folder:FolderDestination",
    "dropbox": "dropbox:DropboxDestination",
    "object_store": "object_store:ObjectStoreDestination",
    "s3": "object_store:ObjectStoreDestination",
    "redis": "redis:RedisDestination",
}


def open_destination(
    spec: FileSpec, credentials: Mapping[str, str], *, upload_url: str | None = None, default_folder: Path
) -> Destination | None:
    """The destination for files that a spec describes; None for uploads that are off.

    Args:
        spec: of a market's YAML; that of `uploads` stands for the upload URL.
        credentials: the set credentials, by the name of their environment variable.
        upload_url: REFRESH_UPLOAD_URL, as set.
        default_folder: where uploads go that the YAML has, when neither a URL nor Dropbox's credentials are set.

    Raises:
        WrongDestination: the URL is of no known kind, or a credential or a package is missing.
    """
    if isinstance(spec, UploadsSpec):
        if is_off(spec, upload_url, credentials):
            return None
        spec = uploads_spec(upload_url, credentials, default_folder)
    return _opened(spec, credentials)


def open_redis(spec: RedisSpec, credentials: Mapping[str, str]) -> "RedisDestination":
    """The Redis server that a spec describes.

    Raises:
        WrongDestination: the package is missing.
    """
    return _opened(spec, credentials)


def _opened(spec: BaseSpec, credentials: Mapping[str, str]) -> Any:
    module, _, name = DESTINATIONS[spec.kind].partition(":")
    try:
        destination = getattr(import_module(f"refresh_pipeline.destinations.{module}"), name)
    except ImportError as error:
        raise WrongDestination(
            f"destination {spec.name!r} needs a package that is not installed ({error.name}): "
            f"{install_command(spec.extra)}"
        ) from error
    return destination.from_spec(spec, credentials)
