"""Markets whose uploads are off, and what people are told then. Uploading is `upload`'s part."""

from collections.abc import Sequence
from pathlib import Path

from refresh_pipeline.destinations.upload_url import is_off
from refresh_pipeline.market.model import Market
from refresh_pipeline.settings import Settings, credentials


def default_folder(settings: Settings) -> Path:
    """The folder of uploads that a market's YAML has, where no setting names another."""
    return settings.data / "uploads"


def markets_without_uploads(settings: Settings, markets: Sequence[Market]) -> list[Market]:
    """The markets for whose files neither a setting nor their YAML names a destination of `uploads`."""
    known = credentials(settings)
    return [market for market in markets if is_off(market.uploads, settings.upload_url, known)]


def former_uploads(settings: Settings) -> str | None:
    """A sentence on files of earlier uploads in the default folder, which stay as they are; None where it has none."""
    folder = default_folder(settings)
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    return (
        f"{folder} holds files of earlier uploads, which are renewed no more: set REFRESH_UPLOAD_URL={folder.as_uri()} "
        "to go on, or delete the folder"
    )
